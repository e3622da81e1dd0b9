"""What the fields of a recipe do in the training step, against the formulas: smoothing, rates, decay, teachers with attention maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.config import DistillConfig, OptimizerConfig
from bnext_jax.errors import UserError
from bnext_jax.models.table import abstract_model, create_model
from bnext_jax.nn.network import split
from bnext_jax.training import mesh, optimizers
from bnext_jax.training.programs import check_maps
from bnext_jax.training.step import StepSpec, compile_step, initial_state, make_step

STEPS_PER_EPOCH, EPOCHS, CLASSES = 2, 2, 4
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.standard_normal((4, 8, 8, 3), np.float32), np.array([0, 3, 1, 1], np.int32)
SMALL = {"widths": (8, 8), "depths": (1, 1)}


def steps(config, *, teacher=None, distill=None, smoothing=0.0, accumulate=1):
    """Runs a small ResNet through EPOCHS. Returns [(state before a step, metrics of the step)], the last state, and the network."""
    network, params, stats = split(create_model("resnet", CLASSES, rngs=nnx.Rngs(0), **SMALL), training=True, batch_norm_group=2)
    optimizer = optimizers.make_optimizer(config, network.decay_groups)
    float32, shardings = jnp.dtype("float32"), mesh.make_shardings("")
    spec = StepSpec(
        STEPS_PER_EPOCH, EPOCHS, (0, 0, 0), (1, 1, 1), float32, float32, distill or DistillConfig(), 2, config, None, accumulate, smoothing
    )
    state = shardings.put_state(initial_state(network, params, stats, optimizer))
    teachers, variables = ({}, {}) if teacher is None else ({"main": teacher[0]}, {"main": shardings.put(teacher[1])})
    step = compile_step(make_step(network, teachers, optimizer, spec, shardings), shardings, state)
    batch = shardings.put_batch({"image": IMAGES, "label": LABELS, "undecodable": np.full(4, -1, np.int32)})
    done = []
    for _ in range(STEPS_PER_EPOCH * EPOCHS):
        before = jax.tree.map(jnp.array, state)  # a copy: the step donates the state
        state, metrics = step(state, batch, shardings.put_flag(0), variables)
        done.append((before, {name: float(value) for name, value in metrics.items()}))
    return done, state, network


def outputs(network, state, variables=None):
    """Logits and feature maps of a network: of the state, or of the given variables."""
    taps = []
    logits, _ = network(variables or {**state["params"], **state["batch_stats"]}, IMAGES, None, taps)
    return np.asarray(logits, np.float64), [np.asarray(x, np.float64) for x in taps]


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_smoothing_decay_and_rate_act_in_the_step_as_their_formulas_say():
    config = OptimizerConfig(
        name="sgd", learning_rate=0.1, schedule="linear", per_step=True, warmup_epochs=0, final_rate=0.0, decay_weights=0.3, decay_rest=0.2,
        decay_until=1, beta1=0.0, clip_norm=None,
    )  # fmt: skip
    done, last, network = steps(config, smoothing=0.2)
    targets = 0.8 * np.eye(CLASSES)[LABELS] + 0.2 / CLASSES
    states = [before for before, _ in done] + [last]
    for i, (before, metrics) in enumerate(done):
        assert metrics["loss"] == pytest.approx(-(targets * log_softmax(outputs(network, before)[0])).sum(-1).mean(), rel=1e-4)
        rate = 0.1 * (1 - i / 4)  # a step is half an epoch of two
        assert metrics["learning_rate"] == pytest.approx(rate, rel=1e-6)

        def loss(params, before=before):
            logits, _ = network({**before["batch_stats"], **params}, IMAGES)
            return -(jnp.asarray(targets, jnp.float32) * jax.nn.log_softmax(logits)).sum(-1).mean()

        gradients = jax.grad(loss)(before["params"])
        for path, p in before["params"].items():
            decay = {"weights": 0.3, "rest": 0.2}[network.decay_groups[path]] * (i < 2)  # epoch 1 begins at step 2
            np.testing.assert_allclose(states[i + 1]["params"][path], p - rate * (gradients[path] + decay * p), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_labels_divergence_and_attention_maps_add_up_in_the_step(accumulate):
    teacher, params, stats = split(create_model("resnet", CLASSES, rngs=nnx.Rngs(5), **SMALL), training=False)
    distill = DistillConfig(main="x", form="labels", kl_weight=3.0, attention_weight=30.0)
    config = OptimizerConfig(name="sgd", warmup_epochs=0, learning_rate=0.01, schedule="steps")
    done, _, network = steps(config, teacher=(teacher, {**params, **stats}), distill=distill, accumulate=accumulate)
    theirs, their_maps = outputs(teacher, None, {**params, **stats})
    for before, metrics in done:
        ours, maps = outputs(network, before)
        p, q = log_softmax(theirs), log_softmax(ours)
        expected = -q[np.arange(4), LABELS].mean() + 3 * (np.exp(p) * (p - q)).sum(-1).mean()
        differences = []
        for a, b in zip(maps, their_maps, strict=True):
            squares = [(x**2).mean(-1) for x in (a, b)]
            shares = [s / s.max((1, 2), keepdims=True) for s in squares]
            differences.append(((shares[0] - shares[1]) ** 2).mean())
        assert len(differences) == 2 and np.mean(differences) > 1e-3
        assert metrics["loss"] == pytest.approx(expected + 30 * np.mean(differences), rel=1e-3)


def viewed(name, **arguments):
    network, params, stats = split(abstract_model(name, CLASSES, **arguments), training=False)
    return network, {**params, **stats}


def test_networks_whose_attention_maps_cannot_be_compared_are_refused():
    shape, student = (8, 8, 3), viewed("real_to_binary", widths=(8, 16), depth=1)
    check_maps(student, {"t": viewed("resnet", widths=(16, 32), depths=(1, 1))}, shape)
    with pytest.raises(UserError, match=r"student's blocks have maps of 8x8, 4x4 pixels, the teacher's 8x8, 8x8, 4x4, 4x4; choose"):
        check_maps(student, {"t": viewed("resnet", widths=(8, 16), depths=(2, 2))}, shape)
    with pytest.raises(UserError, match="the teacher t is a network without them"):
        check_maps(student, {"t": viewed("convnext", widths=(8,), depths=(1,), patch=4)}, shape)
    with pytest.raises(UserError, match=r"config\.model names a network without them"):
        check_maps(viewed("bnext", widths=(8, 8)), {}, shape)
