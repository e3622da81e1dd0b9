"""Both lowerings of the depthwise convolution give the same outputs and gradients, and the sum that defines the convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.nn import depthwise, lowering

CASES = [(3, 1, (6, 6)), (3, 2, (6, 6)), (3, 2, (7, 5)), (5, 2, (8, 6)), (5, 1, (3, 4)), (7, 1, (8, 8)), (7, 3, (2, 9))]
UNEVEN = ((0, 1), (1, 2))  # as TensorFlow pads: more at the end


def _outputs(x, kernel, stride, pads=None):
    """Returns (output, gradient of x, gradient of the kernel). The cotangent differs at every position.

    pads: None = size // 2 on all sides.
    """
    pads = pads or ((kernel.shape[0] // 2,) * 2,) * 2
    y, pullback = jax.vjp(lambda x, k: depthwise.depthwise_convolution(x, k, stride, pads), x, kernel)
    return y, *pullback(jnp.sin(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


def _data(size, shape, dtype=np.float32):
    draw = np.random.default_rng([size, *shape]).standard_normal
    return jnp.asarray(draw((2, *shape, 4)), dtype), jnp.asarray(draw((size, size, 1, 4)), dtype)


@pytest.mark.parametrize(
    ("size", "stride", "shape", "pads"), [*((*case, None) for case in CASES), (3, 2, (6, 8), UNEVEN), (5, 2, (7, 6), UNEVEN)]
)
def test_both_lowerings_give_the_same_output_and_gradients(size, stride, shape, pads, monkeypatch):
    x, kernel = _data(size, shape)
    cpu = _outputs(x, kernel, stride, pads)
    monkeypatch.setattr(lowering, "choose", lambda cpu, default, *operands: default(*operands))
    for found, expected in zip(cpu, _outputs(x, kernel, stride, pads), strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_output_is_the_sum_over_taps_of_zero_padded_positions():
    x, kernel = _data(3, (5, 4))
    pads = ((1, 1), (0, 1))
    padded = np.pad(np.asarray(x), ((0, 0), *pads, (0, 0)))
    expected = np.zeros((2, 3, 2, 4))
    for i, j in np.ndindex(3, 2):
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[:, i, j] = (window * np.asarray(kernel)[:, :, 0]).sum((1, 2))
    np.testing.assert_allclose(depthwise.depthwise_convolution(x, kernel, 2, pads), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["cpu", "accelerator"])
def test_bfloat16_gives_bfloat16_within_its_rounding(form, monkeypatch):
    x, kernel = _data(7, (8, 8), jnp.bfloat16)
    exact = _outputs(x.astype(jnp.float32), kernel.astype(jnp.float32), 1)
    if form == "accelerator":
        monkeypatch.setattr(lowering, "choose", lambda cpu, default, *operands: default(*operands))
    for found, expected in zip(_outputs(x, kernel, 1), exact, strict=True):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(np.float32), expected, atol=2e-2 * np.abs(expected).max(), rtol=0)
