"""The schedules of learning rate and temperature, and AdamW, against the recipe's formulas in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.config import OptimizerConfig, TemperatureConfig
from bnext_jax.training import optimizers, schedules


@pytest.mark.parametrize("epochs", [128, 512])
def test_the_learning_rate_warms_up_and_follows_an_unfinished_cosine(epochs):
    with jax.enable_x64(True):
        for e in range(epochs):
            expected = 1e-5 + e * (1e-3 - 1e-5) / 5 if e < 5 else 1e-7 + 0.5 * (1e-3 - 1e-7) * (1 + math.cos(math.pi * (e - 5) / epochs))
            assert float(schedules.learning_rate(OptimizerConfig(), epochs, e)) == pytest.approx(expected, rel=1e-12)
    if epochs == 512:
        assert expected == pytest.approx(4.4e-7, rel=0.02)  # docs/spec.md, section 7: the cosine is not finished at the last epoch


def test_the_temperature_falls_by_a_tenth_each_epoch_to_exact_signs_at_153():
    values = [float(schedules.temperature(TemperatureConfig(), 512, e)) for e in range(155)]
    np.testing.assert_allclose(values, [0.9**e for e in range(155)], rtol=1e-5)
    assert next(e for e, t in enumerate(values) if t < 1e-7) == 153
    assert next(e for e, t in enumerate(values) if t < 1e-5) == 110  # the threshold of BNext-18


@pytest.mark.parametrize(("share", "epochs"), [(0.75, 40), (0.5, 7), (0.9, 10)])
def test_a_short_run_has_exact_signs_from_the_chosen_share_on(share, epochs):
    config = TemperatureConfig(exact_from=share)
    for e in range(epochs):
        value = float(schedules.temperature(config, epochs, e))
        if e >= share * epochs:
            assert value == 0
        else:
            assert value == pytest.approx(10 ** (-7 * e / (share * epochs)), rel=1e-4) and value >= 1e-7


def test_adamw_has_two_decay_groups_and_clips_like_pytorch():
    config = OptimizerConfig(decay_weights=0.1, decay_rest=0.01, clip_norm=2.0)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (2,)}
    params = {k: rng.standard_normal(s) for k, s in shapes.items()}
    grads = [{k: 3 * rng.standard_normal(s) for k, s in shapes.items()} for _ in range(3)]
    rate, decay = 0.01, {"kernel": 0.1, "bias": 0.01}

    expected = {k: v.copy() for k, v in params.items()}
    m, v = ({k: np.zeros(s) for k, s in shapes.items()} for _ in range(2))
    for t, g in enumerate(grads, start=1):
        norm = math.sqrt(sum((x**2).sum() for x in g.values()))
        assert norm > 2.0
        for k in shapes:
            clipped = g[k] * min(1, 2.0 / (norm + 1e-6))
            m[k] = 0.9 * m[k] + 0.1 * clipped
            v[k] = 0.999 * v[k] + 0.001 * clipped**2
            expected[k] *= 1 - rate * decay[k]
            expected[k] -= rate * (m[k] / (1 - 0.9**t)) / (np.sqrt(v[k] / (1 - 0.999**t)) + 1e-8)

    with jax.enable_x64(True):
        current = {k: jnp.asarray(p) for k, p in params.items()}
        adamw = optimizers.adamw(config, {"kernel": "weights", "bias": "rest"})
        state = adamw.init(current)
        for g in grads:
            direction, state = adamw.update({k: jnp.asarray(x) for k, x in g.items()}, state, current)
            current = {k: p - rate * direction[k] for k, p in current.items()}
    for k in shapes:
        np.testing.assert_allclose(current[k], expected[k], rtol=1e-10)


def test_a_small_gradient_is_not_scaled_up():
    grads = {"a": jnp.array([3.0, 4.0])}
    clipped, _ = optimizers.clip_by_global_norm(50.0).update(grads, ())
    np.testing.assert_array_equal(clipped["a"], [3, 4])
