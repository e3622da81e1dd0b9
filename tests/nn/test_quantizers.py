"""Quantizers on a grid of 0, the bounds +-1 and +-1.5, and values just beside them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.errors import UserError
from bnext_jax.nn.quantizers import SteSign, WeightQuantizer
from bnext_jax.nn.weight_quantizers import AnnealedSign

SIGN, WEIGHT = SteSign(clip_value=1.5), AnnealedSign()  # the quantizers of BNext
BESIDE = 1e-6
GRID = np.array([0.0] + [s * (v + d) for v in (0.0, 1.0, 1.5) for d in (-BESIDE, 0.0, BESIDE) for s in (-1, 1)], np.float32)


def test_sign_is_minus_one_zero_or_one():
    expected = [0 if x == 0 else 1 if x > 0 else -1 for x in GRID]
    np.testing.assert_array_equal(SIGN(jnp.asarray(GRID)), expected)


def test_the_gradient_of_the_sign_passes_up_to_and_including_one_and_a_half():
    cotangent = jnp.arange(1.0, 1 + GRID.size)
    _, pullback = jax.vjp(SIGN, jnp.asarray(GRID))
    expected = [c if abs(x) <= np.float32(1.5) else 0 for c, x in zip(np.asarray(cotangent), GRID, strict=True)]
    assert 0 < np.count_nonzero(expected) < GRID.size
    np.testing.assert_array_equal(pullback(cotangent)[0], expected)


def test_a_shift_per_channel_moves_the_sign_and_gets_the_summed_gradient():
    x = jnp.asarray([[[[-0.5, 1.2]], [[-2.0, 0.1]]]])  # one image of two positions
    shift, cotangent = jnp.asarray([1.0, -0.2]), jnp.asarray([[[[3.0, 5.0]], [[7.0, 11.0]]]])
    found, pullback = jax.vjp(SIGN, x, shift)
    np.testing.assert_array_equal(found, [[[[1, 1]], [[-1, -1]]]])
    of_x, of_shift = pullback(cotangent)
    np.testing.assert_array_equal(of_x, cotangent)
    np.testing.assert_array_equal(of_shift, [10, 16])
    # With this shift, |-0.5 + 3| and |1.2 + 0.4| are larger than 1.5.
    np.testing.assert_array_equal(jax.vjp(SIGN, x, jnp.asarray([3.0, 0.4]))[1](cotangent)[1], [7, 11])


def test_a_shift_finer_than_bfloat16_still_decides_the_sign():
    x = jnp.full((1, 1, 1, 1), -1 / 256, jnp.bfloat16)
    assert SIGN(x, jnp.asarray([1 / 256 + 2.0**-20]))[0, 0, 0, 0] == 1
    assert SIGN(x, jnp.asarray([1 / 256 - 2.0**-20]))[0, 0, 0, 0] == -1


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.3, 1e-3, 1.01e-7])
def test_a_latent_weight_is_divided_by_the_temperature_and_clipped(temperature):
    expected = np.clip(GRID.astype(np.float64) / temperature, -1, 1)
    np.testing.assert_allclose(WEIGHT(jnp.asarray(GRID), jnp.float32(temperature)), expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.99e-7, 1e-8, 0.0])
def test_below_1e_7_weights_are_exact_signs(temperature):
    np.testing.assert_array_equal(WEIGHT(jnp.asarray(GRID), jnp.float32(temperature)), np.sign(GRID))


def test_bnext18_has_exact_signs_below_1e_5():
    weight = jnp.asarray([3e-6, -2e-6])
    np.testing.assert_allclose(WEIGHT(weight, 9.9e-6), [3e-6 / 9.9e-6, -2e-6 / 9.9e-6], rtol=1e-5)
    np.testing.assert_array_equal(AnnealedSign(exact_below=1e-5)(weight, 9.9e-6), [1, -1])


@pytest.mark.parametrize("temperature", [1.0, 0.01, 0.0])
def test_latent_weights_get_the_gradient_of_binary_weights_at_every_temperature(temperature):
    cotangent = jnp.arange(1.0, 1 + GRID.size)
    _, pullback = jax.vjp(lambda w: WEIGHT(w, temperature), jnp.asarray(GRID))
    np.testing.assert_array_equal(pullback(cotangent)[0], cotangent)


def test_the_temperature_gets_no_gradient():
    assert jax.grad(lambda t: WEIGHT(jnp.asarray(GRID), t).sum())(0.5) == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_quantizers_keep_the_type(dtype):
    values = jnp.asarray(GRID, dtype)
    assert SIGN(values).dtype == WEIGHT(values, 0.5).dtype == dtype


def test_float64_weights_are_divided_in_float64():
    with jax.enable_x64(True):
        weight = jnp.asarray([0.1, -0.2])
        np.testing.assert_allclose(WEIGHT(weight, 0.729), [0.1 / 0.729, -0.2 / 0.729], rtol=1e-15)


@pytest.mark.parametrize(("at_zero", "expected"), [(0.0, [-1, 0, 1]), (1.0, [-1, 1, 1]), (-1.0, [-1, -1, 1])])
def test_at_zero_sets_the_sign_of_zero(at_zero, expected):
    quantizer = SteSign(at_zero=at_zero)
    np.testing.assert_array_equal(quantizer(jnp.asarray([-1e-30, 0.0, 1e-30])), expected)
    assert quantizer.at_zero == at_zero and quantizer.levels == (-1, 1)


def test_quantizers_are_equal_by_value_and_hash_so_that_jit_traces_once():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def quantized(quantizer, x):
        traces.append(quantizer)
        return quantizer(x)

    for _ in range(2):
        quantized(SteSign(clip_value=1.3), jnp.ones(3))
    assert len(traces) == 1
    assert hash(AnnealedSign()) == hash(AnnealedSign(1e-7)) and AnnealedSign() != AnnealedSign(1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_a_weight_is_binary_where_the_convolution_multiplies_by_plus_or_minus_one(temperature):
    expected = np.abs(GRID) >= temperature if temperature else GRID != 0
    np.testing.assert_array_equal(WEIGHT.binary(jnp.asarray(GRID), jnp.float32(temperature)), expected)
    assert WEIGHT.is_exact(temperature) is (temperature == 0) and not WEIGHT.is_exact(None)


def test_a_scaled_weight_is_binary_where_its_magnitude_is_the_channels_scale():
    class Scaled(WeightQuantizer):
        def scale(self, latent):
            return jnp.abs(latent).mean(tuple(range(latent.ndim - 1)))

        def __call__(self, latent, temperature):
            return jnp.sign(latent) * self.scale(latent)

    latent = jnp.asarray([[0.5, -3.0], [-1.5, 0.0]])
    np.testing.assert_array_equal(Scaled()(latent, None), [[1, -1.5], [-1, 0]])
    np.testing.assert_array_equal(Scaled().binary(latent, None), [[True, True], [True, False]])


@pytest.mark.parametrize("wrong", [{"levels": (-1.5, 1.5)}, {"levels": (0.0, 1.0), "at_zero": 1.0}, {"at_zero": 0.5}])
def test_a_sign_refuses_other_levels_and_other_values_at_zero(wrong):
    with pytest.raises(UserError, match="a sign has the levels"):
        SteSign(**wrong)


def test_the_shift_of_a_vector_gets_its_gradient():
    _, pullback = jax.vjp(SIGN, jnp.asarray([0.5, 9.0]), jnp.asarray([0.1, 0.1]))
    np.testing.assert_array_equal(pullback(jnp.asarray([3.0, 5.0]))[1], [3, 0])
