"""What a run compiles, of its configuration and a mesh alone: made without data and weights, for `train` and for `plan`."""

import jax
import jax.numpy as jnp
import numpy as np

from bnext_jax.errors import UserError
from bnext_jax.nn.network import split
from bnext_jax.training import evaluator, optimizers
from bnext_jax.training.step import StepSpec, compile_step, initial_state, make_step


def precision_type(name, otherwise=None, platform=None):
    """The activations' type of a precision's name. "auto" = `otherwise`, or bfloat16 on TPU and float32 elsewhere.

    platform: that the type is for, None = this process's. Raises UserError for float64 where JAX has it disabled.
    """
    if name == "auto":
        return otherwise or jnp.dtype("bfloat16" if (platform or jax.default_backend()) == "tpu" else "float32")
    if name == "float64" and not jax.config.jax_enable_x64:
        raise UserError("config.precision float64 needs JAX_ENABLE_X64=1 in the environment")
    return jnp.dtype(name)


def check_input(network, variables, shape):
    """Raises UserError where the network cannot take images of `shape` (height, width, 3); computes nothing."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    _, _, channels = shape
    if channels != 3:
        raise UserError(f"the images have {channels} channels, the networks take 3")
    jax.eval_shape(network, variables, images)


class Programs:
    """The student's views, its optimizer, and the jitted steps.

    Args:
      config: a checked Config. shardings: training.mesh.Shardings. model: the student, abstract or not. steps_per_epoch: whole number.
      platform: that is compiled for, None = this process's.
    Attributes:
      network, eval_network: nn.network.Network. optimizer: from training.optimizers. dtype: of activations. spec: StepSpec.
      eval_step: see evaluator.make_eval_step.
    """

    def __init__(self, config, shardings, model, steps_per_epoch, platform=None):
        self.shardings = shardings
        self.network, *_ = split(model, training=True, batch_norm_group=config.batch_norm_group)
        self.eval_network, *_ = split(model, training=False)
        self.optimizer = optimizers.adamw(config.optimizer, self.network.decay_groups)
        self.dtype, data = precision_type(config.precision, platform=platform), config.data
        self.spec = StepSpec(
            steps_per_epoch, config.epochs, data.mean, data.std, self.dtype,
            precision_type(config.distill.precision, self.dtype), config.distill.form, config.batch_norm_group,
            config.optimizer, config.temperature, config.accumulate,
        )  # fmt: skip
        self.eval_step = self.eval_step_of(self.eval_network, self.dtype)

    def initial_state(self, params, batch_stats):
        """The state before the first step, not yet on the mesh."""
        return initial_state(self.network, params, batch_stats, self.optimizer)

    def train_step(self, teachers, current):
        """The jitted step. teachers: {role: Network}. current: the state, or its shapes."""
        return compile_step(make_step(self.network, teachers, self.optimizer, self.spec, self.shardings), self.shardings, current)

    def eval_step_of(self, network, dtype):
        """The jitted evaluation of any network in the student's preprocessing."""
        return evaluator.make_eval_step(network, self.shardings, mean=self.spec.mean, std=self.spec.std, dtype=dtype)


def train_batch(rows, shape):
    """{name: zeros} of a training batch: rows images of shape (height, width, 3), none of them replaced."""
    return {"image": np.zeros((rows, *shape), np.uint8), "label": np.zeros(rows, np.int32), "undecodable": np.full(rows, -1, np.int32)}
