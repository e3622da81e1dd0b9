"""Helpers for the benchmarks of training steps: a step with the settings of the ImageNet recipe, its arguments, and the clock."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.config import DistillConfig, OptimizerConfig, TemperatureConfig
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from bnext_jax.training import optimizers
from bnext_jax.training.step import StepSpec, compile_step, initial_state, make_step

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def built(shardings, name, batch, pixels, *, group=None, teachers=(), dtype="float32", teacher_dtype="float32", classes=1000, **arguments):
    """Builds a training step and its arguments, with random images.

    Args:
      shardings: training.mesh.Shardings.
      name: the student's model, see create_model.
      batch: global batch size.
      pixels: side of the images.
      group: images of a batch-norm group; None = the whole batch.
      teachers: names of models; of two, the first is the assistant.
      dtype: type of the student's activations.
      teacher_dtype: type of the teachers' activations.
      classes: number of classes.
      **arguments: the student's arguments, see create_model.
    Returns:
      (jitted step, [state, batch, flag, teachers' variables] on the devices, model).
    """
    model = create_model(name, classes, rngs=nnx.Rngs(0), **arguments)
    network, params, batch_stats = split(model, training=True, batch_norm_group=group)
    adamw = optimizers.make_optimizer(OptimizerConfig(), network.decay_groups)
    networks, variables = {}, {}
    for role, teacher in zip(("assistant", "main")[-len(teachers) :] if teachers else (), teachers, strict=True):
        networks[role], *parts = split(create_model(teacher, classes, rngs=nnx.Rngs(1)), training=False)
        variables[role] = shardings.put({**parts[0], **parts[1]})
    types = jnp.dtype(dtype), jnp.dtype(teacher_dtype)
    spec = StepSpec(2502, 512, MEAN, STD, *types, DistillConfig(), group, OptimizerConfig(), TemperatureConfig())
    current = shardings.put_state(initial_state(network, params, batch_stats, adamw))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (batch, pixels, pixels, 3), dtype=np.uint8), rng.integers(0, classes, batch, dtype=np.int32)
    rows = shardings.put_batch({"image": images, "label": labels, "undecodable": np.full(batch, -1, np.int32)})
    step = compile_step(make_step(network, networks, adamw, spec, shardings), shardings, current)
    return step, [current, rows, shardings.put_flag(0), variables], model


class Stepping:
    """Calls a compiled step repeatedly and keeps the training state.

    Args:
      compiled: the compiled step.
      arguments: see built. The step donates the state, so do not use arguments[0] again.
    """

    def __init__(self, compiled, arguments):
        self._compiled, (self.state, *self._rest) = compiled, arguments

    def __call__(self):
        """Runs one step; returns its loss without waiting for it."""
        self.state, metrics = self._compiled(self.state, *self._rest)
        return metrics["loss"]


def best_seconds(function, repeats=4):
    """The shortest duration of `repeats` calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)
