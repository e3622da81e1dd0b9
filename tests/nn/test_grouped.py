"""Grouped convolutions: both forms equal a convolution of each group alone, with all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.nn.grouped import grouped_convolution


def one_by_one(x, kernel, stride, groups, pads):
    """Each group convolved alone with XLA's dense convolution."""
    parts = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    names = ("NHWC", "HWIO", "NHWC")
    done = [jax.lax.conv_general_dilated(a, k, (stride, stride), pads, dimension_numbers=names) for a, k in parts]
    return jnp.concatenate(done, axis=-1)


@pytest.mark.parametrize(("channels", "features", "groups"), [(6, 12, 6), (8, 4, 2), (4, 4, 4)])
@pytest.mark.parametrize(("stride", "pads"), [(1, ((1, 1), (1, 1))), (2, ((0, 1), (0, 1))), (2, ((1, 1), (0, 0)))])
def test_each_group_is_convolved_alone(channels, features, groups, stride, pads, lowering):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 6, 8, channels)), jax.random.normal(keys[1], (3, 3, channels // groups, features))
    expected, pull = jax.vjp(lambda x, k: one_by_one(x, k, stride, groups, pads), x, kernel)
    found, pulled = jax.vjp(lambda x, k: grouped_convolution(x, k, stride, groups, pads), x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    cotangent = jax.random.normal(keys[2], expected.shape)
    for ours, theirs in zip(pulled(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
