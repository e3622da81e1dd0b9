"""The binarizers of the eight networks at 0, +-1, +-1.3, +-1.5 and beside them, against formulas written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.errors import UserError
from bnext_jax.nn.aqt import AqtQuantizer
from bnext_jax.nn.quantizers import ApproxSign, AqtSign, SteSign
from bnext_jax.nn.weight_quantizers import XNOR_GRADIENTS, AqtWeightSign, MagnitudeAwareSign, SteWeightSign, XnorWeightScale

BESIDE = 1e-6
GRID = np.array([0.0] + [s * (v + d) for v in (0.0, 0.4, 1.0, 1.3, 1.5) for d in (-BESIDE, 0.0, BESIDE) for s in (-1, 1)], np.float32)
GRADIENT = np.arange(1.0, 1 + GRID.size, dtype=np.float32)
INF = float("inf")


def pulled(quantizer, x, gradient):
    y, pullback = jax.vjp(quantizer, jnp.asarray(x))
    return np.asarray(y), np.asarray(pullback(jnp.asarray(gradient))[0])


def sign(x, at_zero):
    return np.where(x == 0, at_zero, np.sign(x))


@pytest.mark.parametrize(
    ("quantizer", "at_zero", "passes"),
    [
        (SteSign(clip_value=INF), 0, lambda x: True),  # BNN, behind its hard tanh
        (SteSign(clip_value=1, inclusive=False), 0, lambda x: abs(x) < 1),  # XNOR-Net
        (SteSign(clip_value=1, at_zero=1), 1, lambda x: abs(x) <= 1),  # Real-to-Binary, MeliusNet in bitorch
        (SteSign(clip_value=1.3, at_zero=1), 1, lambda x: abs(x) <= np.float32(1.3)),  # MeliusNet in larq
        (SteWeightSign(clip_value=INF, at_zero=0, bound=1.0), 0, lambda x: True),  # BNN
        (SteWeightSign(bound=1.0), 1, lambda x: abs(x) <= 1),  # Real-to-Binary
        (SteWeightSign(clip_value=1.3, bound=1.3), 1, lambda x: abs(x) <= np.float32(1.3)),  # MeliusNet in larq
        (SteWeightSign(clip_value=INF), 1, lambda x: True),  # MeliusNet in bitorch
    ],
)
def test_a_sign_passes_the_gradient_inside_its_window(quantizer, at_zero, passes):
    y, dx = pulled(quantizer, GRID, GRADIENT)
    np.testing.assert_array_equal(y, sign(GRID, at_zero))
    np.testing.assert_array_equal(dx, [g if passes(x) else 0 for x, g in zip(GRID, GRADIENT, strict=True)])


@pytest.mark.parametrize("at_zero", [0, 1])
def test_the_approximate_sign_has_the_derivative_of_a_piecewise_square(at_zero):
    def slope(x):  # of 2 x + x^2 on [-1, 0) and 2 x - x^2 on [0, 1)
        return 2 + 2 * x if -1 <= x < 0 else 2 - 2 * x if 0 <= x < 1 else 0

    y, dx = pulled(ApproxSign(at_zero=at_zero), GRID, GRADIENT)
    np.testing.assert_array_equal(y, sign(GRID, at_zero))
    np.testing.assert_allclose(dx, [g * slope(float(x)) for x, g in zip(GRID, GRADIENT, strict=True)], rtol=1e-5, atol=1e-6)


def test_the_sign_of_pokebnn_has_the_levels_one_and_a_half():
    edge = 3 * (1 - 1 / 128)  # 2.9765625, a number of float32
    x = np.array([-3.0, -edge, -edge + 1e-6, -1e-6, 0.0, 1e-6, 1.5, edge - 1e-6, edge, edge + 1e-6], np.float32)
    y, dx = pulled(AqtSign(bound=3.0), x, np.full(x.shape, 4, np.float32))
    np.testing.assert_array_equal(y, [-1.5] * 4 + [1.5] * 6)
    np.testing.assert_array_equal(dx, [0, 2, 4, 4, 4, 4, 4, 4, 2, 0])
    assert AqtSign(bound=3.0).levels == (-1.5, 1.5) and AqtSign(bound=3.0).at_zero == 1.5


def kernel(seed):
    """Latent weights [1, 1, 6, 5], with zeros and numbers at and beside the limits, and a gradient."""
    rng = np.random.default_rng(seed)
    w = rng.choice(GRID, (1, 1, 6, 5)).astype(np.float32)
    w[0, 0, 0] = 0.25 * rng.standard_normal(5)
    return w, rng.standard_normal(w.shape).astype(np.float32)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_magnitude_aware_sign_has_one_mean_for_each_output_channel(scaled):
    w, g = kernel(0)
    quantizer = MagnitudeAwareSign(at_zero=1 if scaled else 0, scale_gradient=scaled)
    y, dw = pulled(quantizer, w, g)
    a = np.abs(w).mean((0, 1, 2))
    np.testing.assert_allclose(y, a * sign(w, 1 if scaled else 0), rtol=1e-6)
    np.testing.assert_allclose(dw, np.where(np.abs(w) <= 1, g, 0) * (a if scaled else 1), rtol=1e-6)
    np.testing.assert_allclose(quantizer.scale(jnp.asarray(w)), a, rtol=1e-6)


@pytest.mark.parametrize("rule", XNOR_GRADIENTS)
def test_the_four_published_gradients_of_xnor_weights(rule):
    w, g = kernel(1)
    inputs, n = 6, 6
    c = np.clip(w - w.mean(2, keepdims=True) if "centered" in rule else w, -1, 1)
    a = np.abs(c).mean((0, 1, 2))
    sums = (g * sign(c, 1 if rule == "full" else 0)).sum((0, 1, 2)) / n
    expected = {
        "straight": g,
        "full": (np.abs(w) <= 1) * (g * a + np.sign(c) * sums),
        "centered": (a * g * (np.abs(c) <= 1) + np.sign(c) * sums) * (1 - 1 / inputs) * n,
        "centered_torch7": g * (a * (np.abs(c) < 1) + 1 / n) * (1 - 1 / inputs) * n,
    }[rule]
    y, dw = pulled(XnorWeightScale(gradient=rule), w, g)
    np.testing.assert_allclose(y, a * sign(c, 1 if rule == "full" else 0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dw, expected, rtol=2e-5, atol=1e-6)
    assert XnorWeightScale(gradient=rule).bounds == (-1, 1)


def test_the_largest_weights_of_a_channel_get_no_gradient_in_pokebnn():
    w = np.array([[2.0, -0.5], [-1.99, 0.0], [1.98, 0.49], [0.0, -0.497]], np.float32)  # 2 * 127/128 = 1.984, 0.5 * 127/128 = 0.496
    y, dw = pulled(AqtWeightSign(), w, np.ones(w.shape, np.float32))
    np.testing.assert_array_equal(y, [[1, -0.25], [-1, 0.25], [1, 0.25], [1, -0.25]])
    np.testing.assert_array_equal(dw, [[0, 0], [0, 1], [1, 1], [1, 0]])


@pytest.mark.parametrize("bits", [4, 8])
def test_signed_codes_are_rounded_and_clipped(bits):
    limit, bound = 2 ** (bits - 1) - 1, 2.0
    s = limit / (bound + 2.0**-23)
    x = np.array([-2.5, -2.0, -0.3, 0.0, 0.4 / s, 0.6 / s, 1.3, 2.5], np.float32)
    y, dx = pulled(lambda x: AqtQuantizer(bits)(x, jnp.float32(bound)), x, np.ones(x.shape, np.float32))
    np.testing.assert_allclose(y, np.floor(np.clip(x * s, -limit, limit) + 0.5) / s, rtol=1e-6)
    np.testing.assert_array_equal(dx, [0, 0.5, 1, 1, 1, 1, 1, 0])  # in float32 2 + 2^-23 is 2, so -2 s is the limit itself
    np.testing.assert_allclose(y[4:6], [0, 1 / s], rtol=1e-6)


def test_unsigned_codes_are_rounded_down_and_half_the_gradient_passes_at_both_ends():
    s = 16 / (2.0 + 2.0**-23)
    x = np.array([-0.1, 0.0, 0.9, 1.0, 14.9, 15.0, 15.9, 16.1], np.float32) / np.float32(s) * np.float32(1 + 1e-6)
    y, dx = pulled(lambda x: AqtQuantizer(4, signed=False)(x, jnp.float32(2.0)), x, np.ones(x.shape, np.float32))
    np.testing.assert_allclose(y * s, [0, 0, 0, 1, 14, 15, 15, 15], atol=1e-5)
    np.testing.assert_array_equal(dx, [0, 0.5, 0.5, 1, 1, 0.5, 0.5, 0])


def test_an_unset_bound_passes_the_input_and_a_bound_of_zero_gives_nothing():
    x = jnp.asarray([[0.3, -2.0]])
    np.testing.assert_array_equal(AqtQuantizer(8).input(x, jnp.full((2,), -1.0)), x)
    assert float(jnp.abs(AqtQuantizer(8)(x, jnp.zeros((2,)))).max()) < 1e-6


@pytest.mark.parametrize(
    "quantizer", [SteWeightSign(), SteWeightSign(at_zero=0), MagnitudeAwareSign(), XnorWeightScale(), AqtWeightSign()], ids=repr
)
def test_a_weight_quantizer_returns_exactly_its_signs_times_its_scale(quantizer):
    w, _ = kernel(2)
    signs, scale = quantizer.signs(jnp.asarray(w)), quantizer.scale(jnp.asarray(w))
    np.testing.assert_array_equal(quantizer(jnp.asarray(w)), signs if scale is None else signs * scale)
    assert quantizer.is_exact(None) and hash(quantizer) == hash(type(quantizer)(**vars(quantizer)))
    zeros = w == 0
    np.testing.assert_array_equal(quantizer.binary(jnp.asarray(w), None)[~zeros], True)


def test_impossible_signs_are_refused_in_one_sentence():
    for make in (lambda: ApproxSign(at_zero=2), lambda: SteWeightSign(at_zero=0.5), lambda: MagnitudeAwareSign(at_zero=3)):
        with pytest.raises(UserError, match="the sign of 0 is -1, 0 or 1"):
            make()
    with pytest.raises(UserError, match="gradient is 'magic'; one of: straight, full, centered, centered_torch7"):
        XnorWeightScale(gradient="magic")


@pytest.mark.parametrize(
    "quantizer", [MagnitudeAwareSign(), XnorWeightScale(), XnorWeightScale(gradient="straight"), AqtWeightSign()], ids=repr
)
def test_signs_and_scales_tell_latent_weights_that_give_them_again(quantizer):
    rng = np.random.default_rng(3)
    signs, scale = rng.choice([-1.0, 1.0], (3, 3, 4, 5)).astype(np.float32), rng.uniform(0.1, 0.9, 5).astype(np.float32)
    latent = quantizer.latent(jnp.asarray(signs), jnp.asarray(scale))
    np.testing.assert_allclose(quantizer(latent), signs * scale, rtol=1e-6)
    _, gradient = pulled(quantizer, latent, np.ones(signs.shape, np.float32))
    assert np.count_nonzero(gradient) >= 35 * 5  # of 36 weights of each channel, training may change all but the largest one


def test_centered_weights_cannot_be_told_from_signs_and_scales():
    with pytest.raises(UserError, match="do not tell the latent weights of XnorWeightScale"):
        XnorWeightScale(gradient="centered").latent(jnp.ones((1, 1, 2, 3)), jnp.ones((3,)))
