"""The schedules of learning rate and temperature, and the optimizers, against formulas in plain Python and against PyTorch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

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


def test_signs_can_be_exact_from_the_first_step_on():
    assert [float(schedules.temperature(TemperatureConfig(exact_from=0.0), 4, e)) for e in range(4)] == [0, 0, 0, 0]


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
        adamw = optimizers.make_optimizer(config, {"kernel": "weights", "bias": "rest"})
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


PYTORCH = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-9),
    "radam": lambda groups: torch.optim.RAdam(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-9),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-9),
}


@pytest.mark.parametrize("name", PYTORCH)
def test_every_optimizer_moves_parameters_as_pytorch_does(name):
    rng = np.random.default_rng(1)
    start = {"kernel": rng.standard_normal((3, 2)), "bias": rng.standard_normal(2)}
    grads = [{k: rng.standard_normal(v.shape) for k, v in start.items()} for _ in range(12)]  # RAdam rectifies from the sixth step on
    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in start.items()}
    groups = [{"params": [theirs["kernel"]], "weight_decay": 0.3}, {"params": [theirs["bias"]], "weight_decay": 0.05}]
    optimizer = PYTORCH[name](groups)
    config = OptimizerConfig(name=name, decay_weights=0.3, decay_rest=0.05, beta2=0.99, epsilon=1e-9, clip_norm=None)
    with jax.enable_x64(True):
        ours = {k: jnp.asarray(v) for k, v in start.items()}
        made = optimizers.make_optimizer(config, {"kernel": "weights", "bias": "rest"})
        state = made.init(ours)
        for step, g in enumerate(grads):
            decays = {} if step < 8 else {"decays": jnp.asarray(step < 10)}  # there is no weight decay in the last two steps
            direction, state = made.update({k: jnp.asarray(x) for k, x in g.items()}, state, ours, **decays)
            ours = {k: p - 0.01 * direction[k] for k, p in ours.items()}
            for group in optimizer.param_groups if step >= 10 else ():
                group["weight_decay"] = 0.0
            for k, p in theirs.items():
                p.grad = torch.tensor(g[k])
            optimizer.step()
    for k, p in theirs.items():
        np.testing.assert_allclose(ours[k], p.detach().numpy(), rtol=1e-6)


def rates(epochs, at=None, **fields):
    """The learning rates of all epochs, or of the given times."""
    with jax.enable_x64(True):
        config = OptimizerConfig(**{"warmup_epochs": 0, "final_rate": 0.0, **fields})
        return [float(schedules.learning_rate(config, epochs, e)) for e in (range(epochs) if at is None else at)]


def test_the_linear_schedule_of_birealnet_steps_before_the_epoch_and_ends_at_zero():
    expected = [1e-3 * (1 - (e + 1) / 256) for e in range(256)]  # docs/zoo.md; the last epoch moves only running statistics
    assert rates(256, schedule="linear", ahead=1) == pytest.approx(expected, rel=1e-12) and expected[-1] == 0


def test_the_linear_schedule_of_pokebnn_ends_before_the_run():
    found = rates(800, schedule="linear", schedule_epochs=750, learning_rate=6.4e-4, per_step=True, at=[0, 375.5, 749.9, 750, 799])
    assert found == pytest.approx([6.4e-4, 6.4e-4 * (1 - 375.5 / 750), 6.4e-4 * (1 - 749.9 / 750), 0, 0], rel=1e-9)


def test_the_schedule_of_steps_multiplies_the_rate_at_each_given_epoch():
    found = rates(58, schedule="steps", step_epochs=(20, 35, 45, 50))
    assert found == pytest.approx([1e-3] * 20 + [1e-4] * 15 + [1e-5] * 10 + [1e-6] * 5 + [1e-7] * 8, rel=1e-12)
    warm = rates(75, schedule="steps", step_epochs=(40, 60, 70), step_factor=0.3, warmup_epochs=5, warmup_rate=0.0)
    assert warm[:6] == pytest.approx([0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3]) and warm[39:41] == pytest.approx([1e-3, 3e-4])
    assert warm[74] == pytest.approx(2.7e-5)
    assert rates(4, schedule="steps") == [1e-3] * 4


def test_the_cosine_ends_at_the_final_rate():
    found = rates(100, schedule="cosine", learning_rate=0.1, warmup_epochs=5, warmup_rate=0.0, final_rate=0.01, at=[5, 52.5, 76.25, 100])
    assert found == pytest.approx([0.1, 0.055, 0.01 + 0.045 * (1 - math.sqrt(0.5)), 0.01])
