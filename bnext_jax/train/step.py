"""The training step: student forward, teachers' forward, loss, gradients, AdamW, projection, as one pure function.

state = {"step", "params", "batch_stats", "opt_state"}      donated
batch = {"image": [N,H,W,3] uint8, or floating and already normalised; "label": [N] int32}
teachers = {"main": variables, "assistant": variables}      frozen, not donated, not differentiated
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from bnext_jax import distill
from bnext_jax.layers import wide
from bnext_jax.train import optimizer as schedules
from bnext_jax.train.state import project


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What the step needs to know of the configuration, as plain values.

    steps_per_epoch, epochs: length. mean, std: of pixels in [0, 1]. dtype, teacher_dtype: of the activations.
    form, group: of the distillation loss and batch norm (see distill). optimizer, temperature: their configs.
    """

    steps_per_epoch: int
    epochs: int
    mean: tuple
    std: tuple
    dtype: jnp.dtype
    teacher_dtype: jnp.dtype
    form: str
    group: int | None
    optimizer: object
    temperature: object


def normalise(images, mean, std, dtype):
    """(pixel / 255 - mean) / std for uint8 images, in `dtype`; floating images count as normalised and are only cast."""
    if images.dtype != jnp.uint8:
        return images.astype(dtype)
    work = wide(dtype)
    scale = 1 / (255 * jnp.asarray(std, work))
    return (images.astype(work) * scale - jnp.asarray(mean, work) / jnp.asarray(std, work)).astype(dtype)


def make_step(student, teachers, optimizer, spec):
    """The step as a function of arrays alone.

    Args:
      student: train.state.Network, a training view.
      teachers: {"main": Network, "assistant": Network}, evaluation views; one of them or none. Each is given its
        variables at every call, so that an assistant of the same structure is swapped without a compilation.
      optimizer: from train.optimizer.adamw.
      spec: StepSpec.
    Returns:
      step(state, batch, teacher_variables) -> (state, metrics); metrics are scalars: loss (nats), correct (count of
      top-1 hits among the batch), grad_norm (before clipping), learning_rate, temperature.
    """

    def loss_fn(params, state, batch, temperature, teacher_variables):
        images = normalise(batch["image"], spec.mean, spec.std, spec.dtype)
        logits, stats = student({**state["batch_stats"], **params}, images, temperature)
        if not teachers:
            return distill.cross_entropy(logits, batch["label"]).mean(), (logits, stats)
        seen = images.astype(spec.teacher_dtype)
        teacher_logits = [jax.lax.stop_gradient(teachers[role](teacher_variables[role], seen)[0]) for role in sorted(teachers)]
        loss = distill.distillation_loss(logits, teacher_logits, form=spec.form, group=spec.group)
        return loss, (logits, stats)

    def step(state, batch, teacher_variables):
        epoch = state["step"] // spec.steps_per_epoch
        rate = schedules.learning_rate(spec.optimizer, spec.epochs, epoch)
        temperature = schedules.temperature(spec.temperature, spec.epochs, epoch)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, stats)), grads = gradient(state["params"], state, batch, temperature, teacher_variables)

        direction, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        moved = {path: p - (rate * direction[path]).astype(p.dtype) for path, p in state["params"].items()}
        batch_stats = {**state["batch_stats"], **stats}
        if "temperature" in batch_stats:  # a saved network says at which temperature it stands
            batch_stats["temperature"] = temperature.astype(batch_stats["temperature"].dtype)
        new_state = {
            "step": state["step"] + 1,
            "params": project(moved, student.bounds),
            "batch_stats": batch_stats,
            "opt_state": opt_state,
        }
        metrics = {
            "loss": loss,
            "correct": (logits.argmax(-1) == batch["label"]).sum(),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
            "temperature": temperature,
        }
        return new_state, metrics

    return step


def compile_step(step, mesh_shardings):
    """jax.jit of the step with donated state and explicit shardings.

    mesh_shardings: train.mesh.Shardings. Everything that goes in must have been put on the mesh, so that the run compiles once.
    """
    whole, batch = mesh_shardings.replicated, mesh_shardings.batch
    return jax.jit(step, donate_argnums=0, in_shardings=(whole, batch, whole), out_shardings=(whole, whole))
