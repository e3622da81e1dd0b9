"""nn.epilogue has a backward pass written by hand. These tests compare it with automatic differentiation of the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.nn import epilogue

CHANNELS = 5


def written_out(attends, c, a, b, slope, factor, offset, r):
    """Returns (sum of y, sum of z, sum of z^2, output), computed directly from the formulas with jnp and einsum."""
    u = jnp.einsum("nhwc,nc->nhwc", c, a) + b[:, None, None, :]
    y = jnp.maximum(u, 0) + slope[:, None, None, :] * jnp.minimum(u, 0)
    z = y * r if attends else y
    out = jnp.einsum("nhwc,nc->nhwc", z, factor) + offset[:, None, None, :] + r
    return *(jnp.einsum("nhwc->nc", one) for one in (y, z, z**2)), out


def drawn(seed=0):
    """Draws c, a, b, slope, factor, offset and r for two images of 3x4 positions, in float64."""
    rng = np.random.default_rng(seed)
    maps, images = (2, 3, 4, CHANNELS), (2, CHANNELS)
    return [jnp.asarray(rng.normal(size=shape)) for shape in (maps, images, images, images, images, images, maps)]


def both(attends, c, a, b, slope, factor, offset, r):
    sums = epilogue.sums(c, a, b, slope, r if attends else None)
    return *sums, epilogue.add_offset(epilogue.output(attends, ((c, a, b, slope, factor),), r), offset)


@pytest.mark.parametrize("attends", [False, True])
def test_values_and_all_gradients_equal_those_of_the_formulas(attends):
    with jax.enable_x64(True):
        arguments = drawn()
        found, back = jax.vjp(lambda *values: both(attends, *values), *arguments)
        expected, expected_back = jax.vjp(lambda *values: written_out(attends, *values), *arguments)
        cotangents = tuple(jnp.asarray(np.random.default_rng(1).normal(size=one.shape)) for one in expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)
        names = ["c", "a", "b", "slope", "factor", "offset", "r"]
        for name, one, other in zip(names, back(cotangents), expected_back(cotangents), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=name)
            assert np.abs(other).max() > 0.1, name


@pytest.mark.parametrize("attends", [False, True])
def test_units_side_by_side_compute_as_if_alone_and_share_the_residual(attends):
    with jax.enable_x64(True):
        *first, _, r = drawn()  # without the offset, which add_offset adds
        *second, _, _ = drawn(2)
        found, back = jax.vjp(lambda units, r: epilogue.output(attends, units, r), (tuple(first), tuple(second)), r)
        zero = jnp.zeros((2, CHANNELS))
        alone = [jax.vjp(lambda *values: written_out(attends, *values)[3], *one, zero, r) for one in (first, second)]
        np.testing.assert_allclose(found, np.concatenate([out for out, _ in alone], axis=-1), rtol=1e-13, atol=1e-13)
        cotangent = jnp.asarray(np.random.default_rng(1).normal(size=found.shape))
        grads, grad_r = back(cotangent)
        expected = [back(cotangent[..., part]) for (_, back), part in zip(alone, (slice(CHANNELS), slice(CHANNELS, None)), strict=True)]
        for one, other in zip(grads, expected, strict=True):
            for name, left, right in zip(["c", "a", "b", "slope", "factor"], one, other, strict=False):
                np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(grad_r, expected[0][-1] + expected[1][-1], rtol=1e-12, atol=1e-12)


def test_bfloat16_maps_are_summed_in_float32():
    """Each of 4096 positions is 1 + 2^-7. A sum in bfloat16 would stop at 512, where 1 + 2^-7 is below half a unit in the last place."""
    c = jnp.full((1, 64, 64, 1), 1.0078125, jnp.bfloat16)
    one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    of_y, of_z, of_squares = epilogue.sums(c, one, zero, one)
    assert of_y.dtype == jnp.float32
    np.testing.assert_allclose([of_y[0, 0], of_z[0, 0], of_squares[0, 0]], [4128, 4128, 4096 * 1.0078125**2], rtol=1e-6)
    assert epilogue.add_offset(epilogue.output(False, ((c, one, one, one, one),), c), zero).dtype == jnp.bfloat16
