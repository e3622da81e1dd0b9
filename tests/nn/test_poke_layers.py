"""The layers of PokeBNN against formulas in numpy: calibration of bounds, phases, DPReLU, fitted shortcuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.nn.poke_layers import CalibratedConv, CalibratedLinear, CalibratedQuantizer, DPReLU, Phases, fitted

GROUP, FIRST = 2, 3  # examples of a group; the step that sets the bounds


def batch(step):
    """An input [4,2,3,5] of a step. Channel 0 has zeros, channel 1 of the first group and channel 2 are only zeros, channel 4 diverges."""
    x = np.random.default_rng(step).standard_normal((4, 2, 3, 5)).astype(np.float32)
    x[:, 0, :, 0] = 0
    x[:GROUP, ..., 1] = 0
    x[..., 2] = 0
    x[0, 0, 0, 4] = np.inf
    return x


def calibrated(steps):
    """(maximum, minimum, bounds) after so many steps, in float64, value by value."""
    ends, bounds = np.zeros((2, 5)), -np.ones(5)
    for step in range(steps):
        for c in range(5):
            for end, extreme in enumerate((max, min)):
                moves = []
                for group in batch(step)[..., c].astype(float).reshape(-1, GROUP * 6):
                    value = extreme([v for v in group if v != 0], default=np.nan)
                    moves.append(value - ends[end, c] if np.isfinite(value) else 0)
                ends[end, c] += 0.1 * np.mean(moves)
        if step == FIRST:
            bounds = np.abs(ends).max(0)
    return *ends, bounds


def test_bounds_follow_the_extremes_of_groups_are_set_once_and_stay():
    quantizer = nnx.view(CalibratedQuantizer(5, 8, (0,)), batch_norm_group=GROUP)
    seen = []
    for step in range(6):
        y = quantizer.input(jnp.asarray(batch(step)), Phases(bounded=jnp.asarray(step >= FIRST)))
        seen.append((np.asarray(y), *(np.asarray(v[...]) for v in (quantizer.maximum, quantizer.minimum, quantizer.bounds))))
    for step, (y, *found) in enumerate(seen):
        for ours, expected in zip(found, calibrated(step + 1), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5)
        x, bounds = batch(step).astype(float), calibrated(step + 1)[2]
        scale = 127 / (bounds + 2.0**-23)
        expected = x if step < FIRST else np.floor(np.clip(x * scale, -127, 127) + 0.5) / scale
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-7)
    assert seen[FIRST][3].tobytes() == seen[5][3].tobytes() and not seen[5][3][2]  # a channel of zeros has the bound 0


def test_evaluation_keeps_statistics_and_bounds():
    quantizer = nnx.view(CalibratedQuantizer(5, 4, (0,)), use_running_average=True)
    x = jnp.asarray(batch(0))
    np.testing.assert_array_equal(quantizer.input(x, Phases()), x)
    assert not quantizer.maximum[...].any() and (quantizer.bounds[...] == -1).all()


def test_a_group_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(UserError, match="a batch of 4 does not divide into batch-norm groups of 3"):
        nnx.view(CalibratedQuantizer(5, 8, (0,)), batch_norm_group=3).input(jnp.asarray(batch(0)), Phases())


def quantized(kernel, bits):
    """AQT's quantized kernel, in float64."""
    largest = 2 ** (bits - 1) - 1
    scale = largest / (np.abs(kernel).max(tuple(range(kernel.ndim - 1))).astype(float) + 2.0**-23)
    return np.floor(np.clip(kernel * scale, -largest, largest) + 0.5) / scale


@pytest.mark.parametrize("on", [False, True])
def test_weights_are_real_until_they_are_quantized(on):
    phases = Phases(bounded=False, quantized=jnp.asarray(on))
    linear = CalibratedLinear(6, 4, bits=4, rngs=nnx.Rngs(0))
    x, kernel = np.random.default_rng(1).standard_normal((3, 6)), np.asarray(linear.kernel[...], float)
    np.testing.assert_allclose(
        linear(jnp.asarray(x, jnp.float32), phases), x @ (quantized(kernel, 4) if on else kernel), rtol=1e-5, atol=1e-6
    )
    conv = CalibratedConv(3, 8, 2, 2, padding=0, rngs=nnx.Rngs(1))
    image, kernel = np.random.default_rng(2).standard_normal((1, 2, 2, 3)), np.asarray(conv.kernel[...], float)
    expected = np.einsum("nhwc,hwco->no", image, quantized(kernel, 8) if on else kernel)
    np.testing.assert_allclose(conv(jnp.asarray(image, jnp.float32), phases)[:, 0, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_times_step_plus_low_are_the_quantized_kernel(bits):
    kernel = np.random.default_rng(3).standard_normal((3, 3, 2, 5)).astype(np.float32)
    kernel[..., 4] = 0
    codes, low, step = CalibratedQuantizer(2, bits, (0, 1, 2)).coded(jnp.asarray(kernel))
    assert low.shape == step.shape == (5,) and low.dtype == step.dtype == np.float32
    assert codes.min() == 0 and codes.max() == 2**bits - 2 and (codes == codes.round()).all()  # signed codes have no lowest value
    np.testing.assert_allclose(codes * step.astype(float) + low, quantized(kernel, bits), atol=1e-6)


def test_dprelu_and_its_gradients_at_and_beside_the_knee():
    layer = DPReLU(3)
    values = {"bias_x": 0.5, "bias_y": 0.25, "neg_slope": 0.125, "pos_slope": 2.0}
    for name, value in values.items():
        getattr(layer, name)[...] = jnp.full(3, value)
    x = jnp.array([[0.5, 0.75, 0.0]])  # t is 0, 1/4, -1/2
    np.testing.assert_array_equal(layer(x), [[-0.25, 0.25, -0.3125]])
    graphdef, state = nnx.split(layer)
    gradients, dx = jax.grad(lambda s, x: nnx.merge(graphdef, s)(x).sum(), (0, 1))(state, x)
    np.testing.assert_array_equal(dx, [[2, 2, 0.125]])
    expected = {"bias_x": [-2, -2, -0.125], "bias_y": [-1] * 3, "neg_slope": [0, 0, -0.5], "pos_slope": [0, 0.25, 0]}
    for name, gradient in expected.items():
        np.testing.assert_array_equal(gradients[name][...], gradient)


def test_a_fitted_shortcut_averages_pads_or_repeats_channels():
    x = np.arange(2 * 7, dtype=np.float32).reshape(1, 1, 2, 7)
    means = [[[[0.5, 2.5, 4.5], [7.5, 9.5, 11.5]]]]  # pairs of neighbours; the seventh channel is left out
    np.testing.assert_array_equal(fitted(jnp.asarray(x), (1, 1, 2, 3)), means)
    np.testing.assert_array_equal(fitted(jnp.asarray(x), (1, 1, 2, 9)), np.concatenate([x, 0 * x[..., :2]], -1))
    np.testing.assert_array_equal(fitted(jnp.asarray(x), (1, 1, 2, 14), repeated=True), np.concatenate([x, x], -1))


@pytest.mark.parametrize(("side", "before"), [(4, 0), (5, 1)])
def test_a_fitted_shortcut_is_pooled_with_its_padding_counted(side, before):
    x = np.random.default_rng(4).standard_normal((2, side, side, 3))
    after = -(-side // 2)
    padded = np.zeros((2, 2 * after + 1, 2 * after + 1, 3))
    padded[:, before : before + side, before : before + side] = x
    expected = [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].sum((1, 2)) / 9 for j in range(after)] for i in range(after)]
    found = fitted(jnp.asarray(x, jnp.float32), (2, after, after, 3))
    np.testing.assert_allclose(found, np.moveaxis(expected, 2, 0), rtol=1e-5, atol=1e-6)


def test_a_fitted_shortcut_of_one_pixel_is_not_pooled():
    np.testing.assert_array_equal(fitted(jnp.full((1, 1, 1, 3), 9.0), (1, 1, 1, 3)), np.full((1, 1, 1, 3), 9))
