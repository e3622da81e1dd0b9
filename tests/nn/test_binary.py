"""The binary core on a grid that holds 0, the bounds and values just beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.nn.convolution import convolution
from bnext_jax.nn.quantizers import BinaryConv, LatentWeight, binarize_weight, hard_sign

BESIDE = 1e-6
GRID = np.array([0.0] + [s * (v + d) for v in (0.0, 1.0, 1.5) for d in (-BESIDE, 0.0, BESIDE) for s in (-1, 1)], np.float32)


def test_sign_is_minus_one_zero_or_one():
    expected = [0 if x == 0 else 1 if x > 0 else -1 for x in GRID]
    np.testing.assert_array_equal(hard_sign(jnp.asarray(GRID)), expected)


def test_the_signs_gradient_passes_up_to_and_including_one_and_a_half():
    cotangent = jnp.arange(1.0, 1 + GRID.size)
    _, pullback = jax.vjp(hard_sign, jnp.asarray(GRID))
    expected = [c if abs(x) <= np.float32(1.5) else 0 for c, x in zip(np.asarray(cotangent), GRID, strict=True)]
    assert 0 < np.count_nonzero(expected) < GRID.size
    np.testing.assert_array_equal(pullback(cotangent)[0], expected)


def test_a_shift_of_each_channel_moves_the_sign_and_its_window_and_gathers_its_gradient():
    x = jnp.asarray([[[[-0.5, 1.2]], [[-2.0, 0.1]]]])  # one image of two positions
    shift, cotangent = jnp.asarray([1.0, -0.2]), jnp.asarray([[[[3.0, 5.0]], [[7.0, 11.0]]]])
    found, pullback = jax.vjp(hard_sign, x, shift)
    np.testing.assert_array_equal(found, [[[[1, 1]], [[-1, -1]]]])
    of_x, of_shift = pullback(cotangent)
    np.testing.assert_array_equal(of_x, cotangent)
    np.testing.assert_array_equal(of_shift, [10, 16])
    np.testing.assert_array_equal(jax.vjp(hard_sign, x, jnp.asarray([3.0, 0.4]))[1](cotangent)[1], [7, 11])  # |2.5| and |1.6| lie outside


def test_a_shift_finer_than_bfloat16_still_decides_the_sign():
    x = jnp.full((1, 1, 1, 1), -1 / 256, jnp.bfloat16)
    assert hard_sign(x, jnp.asarray([1 / 256 + 2.0**-20]))[0, 0, 0, 0] == 1
    assert hard_sign(x, jnp.asarray([1 / 256 - 2.0**-20]))[0, 0, 0, 0] == -1


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.3, 1e-3, 1.01e-7])
def test_a_latent_weight_is_divided_by_the_temperature_and_clipped(temperature):
    expected = np.clip(GRID.astype(np.float64) / temperature, -1, 1)
    np.testing.assert_allclose(binarize_weight(jnp.asarray(GRID), jnp.float32(temperature)), expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.99e-7, 1e-8, 0.0])
def test_below_1e_7_weights_are_exact_signs(temperature):
    np.testing.assert_array_equal(binarize_weight(jnp.asarray(GRID), jnp.float32(temperature)), np.sign(GRID))


def test_bnext18_has_exact_signs_from_1e_5_on():
    weight = jnp.asarray([3e-6, -2e-6])
    np.testing.assert_allclose(binarize_weight(weight, 9.9e-6), [3e-6 / 9.9e-6, -2e-6 / 9.9e-6], rtol=1e-5)
    np.testing.assert_array_equal(binarize_weight(weight, 9.9e-6, 1e-5), [1, -1])


@pytest.mark.parametrize("temperature", [1.0, 0.01, 0.0])
def test_a_latent_weights_gradient_is_the_binary_weights_at_every_temperature(temperature):
    cotangent = jnp.arange(1.0, 1 + GRID.size)
    _, pullback = jax.vjp(lambda w: binarize_weight(w, temperature), jnp.asarray(GRID))
    np.testing.assert_array_equal(pullback(cotangent)[0], cotangent)


def test_the_temperature_gets_no_gradient():
    assert jax.grad(lambda t: binarize_weight(jnp.asarray(GRID), t).sum())(0.5) == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_types_are_kept(dtype):
    values = jnp.asarray(GRID, dtype)
    assert hard_sign(values).dtype == binarize_weight(values, 0.5).dtype == dtype


def test_float64_weights_are_divided_in_float64():
    with jax.enable_x64(True):
        weight = jnp.asarray([0.1, -0.2])
        np.testing.assert_allclose(binarize_weight(weight, 0.729), [0.1 / 0.729, -0.2 / 0.729], rtol=1e-15)


def direct(x, kernel, stride):
    """The zero-padded convolution written out with loops over output positions."""
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i, j in np.ndindex(height, width):
        window = padded[:, i * stride : i * stride + kernel.shape[0], j * stride : j * stride + kernel.shape[1]]
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
def test_convolution_gradients_are_the_maps_own_transposes(size, stride, shape, lowering):
    """<y, conv(x, k)> is linear in x and in k: <dx, x2> = <y, conv(x2, k)> and <dk, k2> = <y, conv(x, k2)> for any x2, k2."""
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
    conv = BinaryConv(1, 1, 3, rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.ones((3, 3, 1, 1))
    found = conv(jnp.ones((1, 3, 3, 1)), 0.0)[0, :, :, 0]
    np.testing.assert_array_equal(found, [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


def test_latent_weights_start_at_a_thousandth_and_carry_their_bounds():
    kernel = BinaryConv(64, 64, 3, rngs=nnx.Rngs(0)).kernel
    assert isinstance(kernel, LatentWeight)
    assert kernel.get_metadata()["bounds"] == (-1.5, 1.5)
    assert abs(float(kernel[...].std()) - 0.001) < 2e-5 and abs(float(kernel[...].mean())) < 2e-5
