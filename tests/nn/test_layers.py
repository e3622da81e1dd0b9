"""Real-valued layers are compared with formulas written in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.layers import Gate, PReLU, average_pool


def images(n=6, size=4, channels=3):
    return np.random.default_rng(0).normal(0.7, 2.0, (n, size, size, channels)).astype(np.float32)


def in_training(norm, group=None):
    return nnx.view(norm, use_running_average=False, batch_norm_group=group)


@pytest.mark.parametrize("group", [None, 6, 3, 2, 1])
def test_each_group_of_examples_is_normalized_by_its_own_statistics(group):
    x = images()
    found = in_training(BatchNorm(3), group)(jnp.asarray(x))
    parts = x.reshape(-1, group or 6, 4, 4, 3)
    mean, var = parts.mean((1, 2, 3), keepdims=True), parts.var((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), atol=2e-5)


def test_running_statistics_take_a_tenth_of_the_mean_over_groups():
    x, norm = images(), BatchNorm(3)
    view = in_training(norm, 2)
    view(jnp.asarray(x))
    parts = x.reshape(3, 2 * 16, 3)
    np.testing.assert_allclose(view.mean[...], 0.1 * parts.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(view.var[...], 0.9 + 0.1 * parts.var(1, ddof=1).mean(0), rtol=1e-5)
    assert int(view.batches[...]) == 1


def test_evaluation_uses_the_running_statistics_and_does_not_change_them():
    norm = BatchNorm(3)
    norm.mean[...], norm.var[...], norm.scale[...] = jnp.array([1.0, 2, 3]), jnp.array([4.0, 1, 9]), jnp.array([2.0, 1, 1])
    x = images()
    found = nnx.view(norm, use_running_average=True)(jnp.asarray(x))
    np.testing.assert_allclose(found, (x - [1, 2, 3]) / np.sqrt(np.array([4, 1, 9]) + 1e-5) * [2, 1, 1], atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], [1, 2, 3])


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(UserError, match="6 does not divide into batch-norm groups of 4"):
        in_training(BatchNorm(3), 4)(jnp.asarray(images()))


def test_prelu_scales_values_below_zero_by_the_slope_of_their_channel():
    layer = PReLU(2)
    layer.slope[...] = jnp.array([0.5, -1.0])
    np.testing.assert_array_equal(layer(jnp.array([[-2.0, -2.0], [0.0, 3.0]])), [[-1, 2], [0, 3]])


def test_the_gate_is_sigmoid_of_two_linear_maps_with_relu_between():
    gate, m = Gate(16, rngs=nnx.Rngs(0)), np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    w1, b1, w2, b2 = (np.asarray(v[...]) for v in (gate.reduce.kernel, gate.reduce.bias, gate.expand.kernel, gate.expand.bias))
    assert w1.shape == (16, 2) and w2.shape == (2, 16)
    hidden = np.maximum(m @ w1 + b1, 0)
    np.testing.assert_allclose(gate(jnp.asarray(m)), 1 / (1 + np.exp(-(hidden @ w2 + b2))), rtol=1e-5)


def test_a_gate_on_fewer_than_eight_channels_is_refused():
    with pytest.raises(UserError, match="at least 8 channels"):
        Gate(4, rngs=nnx.Rngs(0))


def test_average_pool_takes_means_of_two_by_two_positions():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(average_pool(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(average_pool(x - 8, lambda x: jnp.maximum(x, 0))[0, :, :, 0], [[0, 0], [2.5, 4.5]])


def test_average_pool_refuses_odd_sizes():
    with pytest.raises(UserError, match="7x6 map"):
        average_pool(jnp.zeros((1, 7, 6, 1)))
