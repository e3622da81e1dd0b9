"""The programs that a run compiles: the training step and the evaluation step.

They need only the configuration and a mesh, no data and no weights. `train` runs them, `plan` compiles them for absent devices.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.config import Config
from bnext_jax.distill.losses import check_sides
from bnext_jax.errors import UserError
from bnext_jax.nn.network import Network, split
from bnext_jax.training import evaluator, optimizers
from bnext_jax.training.mesh import Shardings
from bnext_jax.training.step import StepSpec, compile_step, initial_state, make_step


def precision_type(name: str, otherwise: jnp.dtype | None = None, platform: str | None = None) -> jnp.dtype:
    """Returns the floating type of the activations for a precision of the configuration.

    Args:
      name: "auto" or the name of a floating type.
      otherwise: the type for "auto"; None = bfloat16 on TPU, float32 elsewhere.
      platform: "tpu", "cpu", ...; None = the platform of this process.
    Raises:
      UserError: float64, but JAX has x64 disabled.
    """
    if name == "auto":
        return otherwise or jnp.dtype("bfloat16" if (platform or jax.default_backend()) == "tpu" else "float32")
    if name == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise UserError("config.precision float64 needs JAX_ENABLE_X64=1 in the environment")
    return jnp.dtype(name)


def check_input(network: Network, variables: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Checks that a network can take images of a shape. Traces the network but computes nothing.

    Args:
      network: an evaluation view.
      variables: {path: array}, or their shapes.
      shape: (height, width, channels) of the images.
    Raises:
      UserError: the images do not have 3 channels, or the network cannot take this size.
    """
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    _, _, channels = shape
    if channels != 3:
        raise UserError(f"the images have {channels} channels, the networks take 3")
    jax.eval_shape(network, variables, images)


def check_maps(student: tuple[Network, Mapping[str, Any]], teachers: Mapping[str, tuple[Network, Mapping[str, Any]]], shape: Any) -> None:
    """Checks that the attention maps of a student and its teachers can be compared. Traces the networks but computes nothing.

    Args:
      student: (evaluation view, {path: array or its shape}).
      teachers: {name: the same of a teacher}.
      shape: (height, width, channels) of the images.
    Raises:
      UserError: a network has no feature maps, or the maps of a teacher have other sizes than those of the student.
    """
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    found = {}
    for name, (network, variables) in {"": student, **teachers}.items():
        if not network.has_taps:
            who = f"the teacher {name} is" if name else "config.model names"
            raise UserError(
                f"config.distill.attention_weight needs the maps of all blocks, but {who} a network without them; take a network in the"
                " frame of ResNet-18, or config.distill.attention_weight=0"
            )

        def maps(variables, images, network=network):
            taps: list[jax.Array] = []
            network(variables, images, None, taps)
            return taps

        found[name] = jax.eval_shape(maps, variables, images)
        check_sides(found[""], found[name])


class Programs:
    """The student network, its optimizer and the jitted steps.

    Args:
      config: a checked configuration.
      shardings: the device mesh.
      model: the student, with arrays or abstract.
      steps_per_epoch: number of steps in an epoch.
      platform: platform to compile for; None = the platform of this process.
    Attributes:
      network: the student's training view.
      eval_network: the student's evaluation view.
      optimizer: from training.optimizers.
      dtype: type of the student's activations.
      spec: the configuration of the training step.
      eval_step: the student's jitted evaluation step, see evaluator.make_eval_step.
    """

    def __init__(self, config: Config, shardings: Shardings, model: nnx.Module, steps_per_epoch: int, platform: str | None = None) -> None:
        self.shardings = shardings
        self.network, *_ = split(model, training=True, batch_norm_group=config.batch_norm_group)
        self.eval_network, *_ = split(model, training=False)
        self.optimizer = optimizers.make_optimizer(config.optimizer, self.network.decay_groups)
        self.dtype, data = precision_type(config.precision, platform=platform), config.data
        self.spec = StepSpec(
            steps_per_epoch, config.epochs, data.mean, data.std, self.dtype,
            precision_type(config.distill.precision, self.dtype), config.distill, config.batch_norm_group,
            config.optimizer, config.temperature, config.accumulate, config.label_smoothing,
        )  # fmt: skip
        self.eval_step = self.eval_step_of(self.eval_network, self.dtype)

    def initial_state(self, params: Mapping[str, jax.Array], batch_stats: Mapping[str, jax.Array]) -> dict[str, Any]:
        """Returns the training state before the first step. It does not lie on the mesh yet. See step.initial_state."""
        return initial_state(self.network, params, batch_stats, self.optimizer)

    def train_step(self, teachers: Mapping[str, Network], current: dict[str, Any]) -> jax.stages.Wrapped:
        """Returns the jitted training step, see step.make_step.

        Args:
          teachers: {role: Network}, evaluation views; {} without distillation.
          current: the training state, or its shapes.
        """
        return compile_step(make_step(self.network, teachers, self.optimizer, self.spec, self.shardings), self.shardings, current)

    def eval_step_of(self, network: Network, dtype: jnp.dtype) -> jax.stages.Wrapped:
        """Returns the jitted evaluation step of a network, with the student's preprocessing.

        Args:
          network: an evaluation view of the student or a teacher.
          dtype: type of the activations.
        """
        return evaluator.make_eval_step(network, self.shardings, mean=self.spec.mean, std=self.spec.std, dtype=dtype)


def train_batch(rows: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Returns a blank training batch: zero images, zero labels, and no image marked as undecodable.

    Args:
      rows: number of images.
      shape: (height, width, 3) of an image.
    Returns:
      {"image": uint8 [rows, height, width, 3], "label": int32 [rows], "undecodable": int32 [rows], all -1}.
    """
    return {"image": np.zeros((rows, *shape), np.uint8), "label": np.zeros(rows, np.int32), "undecodable": np.full(rows, -1, np.int32)}
