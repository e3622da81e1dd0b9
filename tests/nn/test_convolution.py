"""Convolutions in both lowerings, and the binary convolution, are compared with loops over output positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.nn.binary_conv import BinaryConv, LatentWeight
from bnext_jax.nn.convolution import convolution
from bnext_jax.nn.quantizers import SteSign
from bnext_jax.nn.weight_quantizers import AnnealedSign

BNEXT = {"input_quantizer": SteSign(clip_value=1.5), "kernel_quantizer": AnnealedSign()}


def direct(x, kernel, stride, pads=None, value=0):
    """Pads a map and convolves it with loops over output positions. pads: None = size // 2 on all sides."""
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), *(pads or ((size // 2, size // 2),) * 2), (0, 0)), constant_values=value)
    height, width = ((side - size) // stride + 1 for side in padded.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i, j in np.ndindex(height, width):
        window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, i, j] = np.einsum("nuvc,uvco->no", window, kernel)
    return out


CASES = [(3, 1, (6, 6)), (3, 2, (6, 6)), (3, 2, (5, 7)), (3, 1, (12, 12)), (3, 2, (24, 24)), (1, 1, (5, 4))]


@pytest.mark.parametrize(("size", "stride", "shape"), CASES)
def test_convolution_is_the_sum_over_taps(size, stride, shape, lowering):
    rng = np.random.default_rng([size, stride, *shape])
    x, kernel = rng.standard_normal((2, *shape, 3)), rng.standard_normal((size, size, 3, 5))
    found = convolution(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), stride)
    np.testing.assert_allclose(found, direct(x, kernel, stride), atol=1e-4)


@pytest.mark.parametrize(("size", "stride", "shape"), CASES)
def test_convolution_gradients_are_the_transposes_of_the_linear_maps(size, stride, shape, lowering):
    """<y, conv(x, k)> is linear in x and in k. So <dx, x2> = <y, conv(x2, k)> and <dk, k2> = <y, conv(x, k2)> for any x2, k2."""
    rng = np.random.default_rng([7, size, stride, *shape])
    x, other = rng.standard_normal((2, 2, *shape, 3))
    kernel, turned = rng.standard_normal((2, size, size, 3, 5))
    y = direct(x, kernel, stride)
    cotangent = rng.standard_normal(y.shape)
    _, pullback = jax.vjp(lambda x, k: convolution(x, k, stride), jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    dx, dk = pullback(jnp.asarray(cotangent, jnp.float32))
    np.testing.assert_allclose(np.vdot(dx, other), np.vdot(cotangent, direct(other, kernel, stride)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.vdot(dk, turned), np.vdot(cotangent, direct(x, turned, stride)), rtol=1e-3, atol=1e-3)


def test_border_taps_of_a_binary_convolution_contribute_zero():
    conv = BinaryConv(1, 1, 3, **BNEXT, rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.ones((3, 3, 1, 1))
    found = conv(jnp.ones((1, 3, 3, 1)), 0.0)[0, :, :, 0]
    np.testing.assert_array_equal(found, [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


# padding, value, stride, side, and the expected pixels before and after. "same" (TensorFlow's rule) adds an odd pixel at the end.
PADDINGS = [
    ("torch", 1, 1, 6, (1, 1)),
    ("torch", -1, 2, 6, (1, 1)),
    ("same", 0, 1, 6, (1, 1)),
    ("same", 0, 2, 6, (0, 1)),
    ("same", 1, 2, 7, (1, 1)),
]


@pytest.mark.parametrize(("padding", "value", "stride", "side", "pixels"), PADDINGS)
def test_a_binary_convolution_uses_its_padding_and_pad_value(padding, value, stride, side, pixels):
    rng = np.random.default_rng([value + 1, stride, side])
    x, shift = rng.standard_normal((2, side, side, 3)), np.array([0.5, -0.2, 0.0])
    conv = BinaryConv(3, 5, 3, stride, **BNEXT, padding=padding, pad_value=value, rngs=nnx.Rngs(0))
    signs = np.sign(np.asarray(conv.kernel[...]))
    found = conv(jnp.asarray(x, jnp.float32), 0.0, shift=jnp.asarray(shift, jnp.float32))
    np.testing.assert_array_equal(found, direct(np.sign(x + shift), signs, stride, (pixels, pixels), value))


def test_without_an_input_quantizer_the_input_is_convolved_unchanged():
    conv = BinaryConv(2, 4, 1, input_quantizer=None, kernel_quantizer=AnnealedSign(), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((1, 2, 2, 2))
    expected = direct(x, np.sign(np.asarray(conv.kernel[...])), 1)
    np.testing.assert_allclose(conv(jnp.asarray(x, jnp.float32), 0.0), expected, atol=1e-6)


def test_an_unknown_padding_is_refused():
    with pytest.raises(UserError, match="padding is 'valid'; one of: torch, same"):
        BinaryConv(2, 4, 3, **BNEXT, padding="valid", rngs=nnx.Rngs(0))


def test_latent_weights_start_at_a_thousandth_and_carry_their_bounds():
    kernel = BinaryConv(64, 64, 3, **BNEXT, rngs=nnx.Rngs(0)).kernel
    assert isinstance(kernel, LatentWeight)
    assert kernel.get_metadata()["bounds"] == (-1.5, 1.5)
    assert abs(float(kernel[...].std()) - 0.001) < 2e-5 and abs(float(kernel[...].mean())) < 2e-5
