"""Six steps of the reference's recipe in float64, against stored values. Uses the step, optimizer, schedule and projection of `train`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.config import DistillConfig, OptimizerConfig, TemperatureConfig
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from bnext_jax.models.table import abstract_model
from bnext_jax.nn import lowering
from bnext_jax.nn.network import fill, split
from bnext_jax.training import mesh, optimizers
from bnext_jax.training.step import StepSpec, compile_step, initial_state, make_step
from tests.helpers import golden_files


class FixedLogits(nnx.Module):
    """A teacher that returns its variable `logits`. The test sets it to the stored logits of each step."""

    def __init__(self, shape):
        self.logits = nnx.Param(jnp.zeros(shape), decay="rest")

    def __call__(self, images):
        return self.logits[...]


@pytest.mark.parametrize("path", golden_files.files("training"), ids=lambda path: path.stem)
def test_golden_trajectory(path, monkeypatch):
    # trajectory_kd runs the accelerators' form of the convolutions, other files the CPU's form; test_golden_units tests every unit in both
    if path.stem == "trajectory_kd":
        monkeypatch.setattr(lowering, "choose", lambda cpu, default, *operands: default(*operands))
    arrays, meta = golden_files.read(path)
    n, classes, steps, size = meta["batch"], meta["num_classes"], meta["steps"], meta["resolution"]
    rng = np.random.default_rng(meta["data_seed"])
    images = rng.standard_normal((steps, n, 3, size, size), dtype=np.float32).astype(np.float64)
    labels = rng.integers(0, classes, (steps, n))
    teacher_logits = 2 * rng.standard_normal((steps, 2, n, classes), dtype=np.float32)
    with jax.enable_x64(True):
        model = abstract_model("bnext", classes, widths=tuple(meta["widths"]))
        drawn = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in golden_files.weights(arrays, meta).items()}
        from_state_dict(model, drawn)
        student, params, stats = split(model, training=True)
        roles = ("assistant", "main") if meta["loss"] == "kd" else ()
        teachers = {role: split(FixedLogits((n, classes)), training=False)[0] for role in roles}
        adamw = optimizers.make_optimizer(OptimizerConfig(), student.decay_groups)
        float64 = jnp.dtype("float64")
        spec = StepSpec(meta["steps_per_epoch"], meta["epochs"], (0, 0, 0), (1, 1, 1), float64, float64,
                        DistillConfig(), None, OptimizerConfig(), TemperatureConfig())  # fmt: skip
        shardings = mesh.make_shardings()
        current = shardings.put_state(initial_state(student, params, stats, adamw))
        step = compile_step(make_step(student, teachers, adamw, spec, shardings), shardings, current)
        go = shardings.put_flag(0)
        for i in range(steps):
            batch = shardings.put_batch({"image": images[i].transpose(0, 2, 3, 1), "label": labels[i]})
            answers = shardings.put({role: {"logits": teacher_logits[i, k].astype(np.float64)} for k, role in enumerate(roles)})
            current, metrics = step(current, batch, go, answers)
            np.testing.assert_allclose(metrics["loss"], arrays["loss"][i], rtol=1e-6)
            np.testing.assert_allclose(metrics["grad_norm"], arrays["grad_norm"][i], rtol=1e-5)
            np.testing.assert_allclose(metrics["learning_rate"], arrays["lr"][i], rtol=1e-12)
            np.testing.assert_allclose(metrics["temperature"], arrays["temperature"][i], rtol=1e-12)

        trained = fill(model, current["params"], current["batch_stats"])
        ours = to_state_dict(trained)
        for key in (key for key in arrays if key.startswith("final:")):
            name = key.removeprefix("final:")
            # The file holds the weights after the optimizer, before clipping to the bounds. Our step has clipped them.
            bounds = (0, 1) if name.endswith("scale") else (-1.5, 1.5) if name.endswith("binary_conv.weight") else (-np.inf, np.inf)
            np.testing.assert_allclose(ours[name], np.clip(arrays[key], *bounds), rtol=0, atol=1e-6, err_msg=name)

        evaluation, *_ = split(model, training=False)
        logits, _ = jax.jit(evaluation)({**current["batch_stats"], **current["params"]}, images[0].transpose(0, 2, 3, 1))
        reference = arrays["final_eval_logits"]
        np.testing.assert_allclose(logits, reference, rtol=0, atol=1e-4 * reference.std())
