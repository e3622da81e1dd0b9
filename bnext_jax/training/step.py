"""The training step as one pure function: student forward, teacher forward, loss, gradients, optimizer, projection.

state = {"step", "params", "batch_stats", "opt_state"}      donated
batch = {"image": [N,H,W,3], uint8, or floating and already normalized; "label": [N] int32}
        The pipeline adds "undecodable": [N] int32, the index of each image that was replaced, -1 for all others.
flag = [devices], the stop flag of each process (see training.preemption); the step sums it over all devices
teachers = {"main": variables, "assistant": variables}      frozen: not donated, not differentiated
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bnext_jax.config import DistillConfig, OptimizerConfig, TemperatureConfig
from bnext_jax.distill import losses
from bnext_jax.nn.network import Network, project
from bnext_jax.nn.normalise import normalise
from bnext_jax.training import schedules
from bnext_jax.training.mesh import Shardings


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The values of the configuration that the step needs.

    Attributes:
      steps_per_epoch: number of steps in an epoch.
      epochs: length of the run.
      mean: mean of the pixels in [0, 1], per channel.
      std: standard deviation of the pixels in [0, 1], per channel.
      dtype: type of the student's activations.
      teacher_dtype: type of the teachers' activations.
      distill: form and weights of the distillation loss, see distill.losses.
      group: examples that share batch-norm statistics and the means of the loss; None = the whole batch.
      optimizer: for the learning rate.
      temperature: for the temperature; None for a student that takes none.
      accumulate: number of pieces in which the step computes a batch, one after another.
      label_smoothing: see distill.losses.cross_entropy.
    """

    steps_per_epoch: int
    epochs: int
    mean: tuple
    std: tuple
    dtype: jnp.dtype
    teacher_dtype: jnp.dtype
    distill: DistillConfig
    group: int | None
    optimizer: OptimizerConfig
    temperature: TemperatureConfig | None
    accumulate: int = 1
    label_smoothing: float = 0.0


def initial_state(
    network: Network,
    params: Mapping[str, jax.Array],
    batch_stats: Mapping[str, jax.Array],
    optimizer: optax.GradientTransformationExtraArgs,
) -> dict[str, Any]:
    """Returns the training state before the first step: projected parameters, optimizer state at zero.

    Args:
      network: the student's training view, which gives the bounds.
      params: {path: array}.
      batch_stats: {path: array} of all variables that are not parameters.
      optimizer: from training.optimizers.make_optimizer.
    Returns:
      {"step": int32 scalar, "params", "batch_stats", "opt_state"}.
    """
    params = project(params, network.bounds)
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": dict(batch_stats),
        "opt_state": optimizer.init(params),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)  # no weak types: they would make the second step compile again


def norm_groups(network: Network) -> dict[str, str]:
    """Returns {path: "latent", "weights" or "rest"}, the groups whose norms are logged.

    These are the optimizer's decay groups, except that the latent weights form a group of their own.
    """
    return {path: "latent" if path in network.latent else group for path, group in network.decay_groups.items()}


def group_norms(name: str, tree: Mapping[str, jax.Array], groups: Mapping[str, str]) -> dict[str, jax.Array]:
    """Returns the 2-norm of each group of arrays.

    Args:
      name: first part of the keys of the result.
      tree: {path: array}.
      groups: {path: group}.
    Returns:
      {"NAME/GROUP": scalar}.
    """
    chosen = {group: [tree[path] for path in tree if groups[path] == group] for group in sorted(set(groups.values()))}
    return {f"{name}/{group}": optax.tree.norm(arrays) for group, arrays in chosen.items()}


def make_step(
    student: Network,
    teachers: Mapping[str, Network],
    optimizer: optax.GradientTransformationExtraArgs,
    spec: StepSpec,
    shardings: Shardings,
) -> Callable[..., tuple[dict[str, Any], dict[str, jax.Array]]]:
    """Makes the training step, a pure function of arrays.

    Args:
      student: a training view.
      teachers: {"main": Network, "assistant": Network}, evaluation views. There may be one of them or none; without teachers the
        loss is cross-entropy with the labels. Every call of the step takes the teachers' variables as an argument.
      optimizer: from training.optimizers.make_optimizer.
      spec: values of the configuration.
      shardings: the device mesh.
    Returns:
      step(state, batch, flag, teacher_variables) -> (state, metrics); the module docstring describes the arguments.
      The metrics are scalars:
        loss: in nats.
        correct: number of top-1 hits of the student in the batch.
        correct/main: number of top-1 hits of the main teacher, if there is one.
        correct/assistant: number of top-1 hits of the assistant teacher, if there is one.
        undecodable: number of replaced images in the batch.
        stop: sum of the flag.
        grad_norm: global 2-norm of the gradients before clipping.
        grad_norm/GROUP: 2-norm of a group's gradients before clipping; for the groups see norm_groups.
        update_norm/GROUP: 2-norm of the change of a group's parameters, projection included.
        param_norm/GROUP: 2-norm of a group's parameters before the update.
        learning_rate: learning rate of the step.
        temperature: temperature of the step, if the student takes one.
    """
    groups = norm_groups(student)
    attends = bool(teachers) and spec.distill.attention_weight > 0

    def loss_fn(params, batch_stats, batch, temperature, teacher_variables):
        images, labels = normalise(batch["image"], spec.mean, spec.std, spec.dtype), batch["label"]
        maps: list[jax.Array] | None = [] if attends else None
        logits, stats = student({**batch_stats, **params}, images, temperature, maps)
        hits, answers, teacher_maps, seen = {"correct": _hits(logits, labels)}, [], [], images.astype(spec.teacher_dtype)
        for role in sorted(teachers):
            theirs: list[jax.Array] | None = [] if attends else None
            answer, _ = teachers[role](teacher_variables[role], seen, None, theirs)
            hits[f"correct/{role}"] = _hits(answer, labels)
            answers.append(jax.lax.stop_gradient(answer))
            teacher_maps.append(jax.lax.stop_gradient(theirs or []))
        loss = losses.total_loss(
            logits, labels, answers, maps or [], teacher_maps, spec.distill, smoothing=spec.label_smoothing, group=spec.group
        )
        return loss, (stats, hits)

    def gradients(params, batch_stats, batch, *rest):
        """Returns ((loss, (statistics, hits)), gradients) of the whole batch.

        With spec.accumulate > 1 this computes the batch in pieces. It averages loss, statistics and gradients, and sums the hits.
        The result is that of the whole batch, because no batch-norm group spans two pieces (see mesh.check_batch). A layer's own
        statistic that no piece changes keeps its bits: the average of equal numbers may differ from them in the last bit.
        """
        compute = jax.value_and_grad(loss_fn, has_aux=True)
        if spec.accumulate == 1:
            return compute(params, batch_stats, batch, *rest)
        pieces = shardings.microbatches(batch, spec.accumulate)

        def add(carry, piece):
            total, kept = carry
            found = compute(params, batch_stats, piece, *rest)
            (_, (stats, _)), _ = found
            kept = {path: same & (stats[path] == batch_stats[path]) for path, same in kept.items()}
            return (jax.tree.map(jnp.add, total, found), kept), None

        one = jax.eval_shape(compute, params, batch_stats, jax.tree.map(lambda x: x[0], pieces), *rest)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
        unchanged = {path: jnp.ones(batch_stats[path].shape, jnp.bool_) for path in student.own_statistics}
        (((loss, (stats, hits)), grads), kept), _ = jax.lax.scan(add, (zeros, unchanged), pieces)
        loss, stats, grads = jax.tree.map(_divided_by(spec.accumulate), (loss, stats, grads))
        stats |= {path: jnp.where(same, batch_stats[path], stats[path]) for path, same in kept.items()}
        return (loss, (stats, hits)), grads

    def step(state, batch, flag, teacher_variables):
        epoch = state["step"] // spec.steps_per_epoch
        # The whole part is exact: a division of the step itself can fall short of a whole number.
        now = epoch + state["step"] % spec.steps_per_epoch / spec.steps_per_epoch if spec.optimizer.per_step else epoch
        rate = schedules.learning_rate(spec.optimizer, spec.epochs, now)
        temperature = None
        if student.temperature is not None and spec.temperature is not None:
            temperature = schedules.temperature(spec.temperature, spec.epochs, epoch)
        before = {**state["batch_stats"], **schedules.switches(student.switches, state["step"], epoch)}
        inputs = {name: batch[name] for name in ("image", "label")}
        whole = shardings.gathered(state["params"])
        (loss, (stats, hits)), grads = gradients(whole, before, inputs, temperature, teacher_variables)
        grads = shardings.split(grads)

        until = spec.optimizer.decay_until
        decays = {} if until is None else {"decays": epoch < until}
        direction, opt_state = optimizer.update(grads, state["opt_state"], state["params"], **decays)
        moved = {path: p - (rate * direction[path]).astype(p.dtype) for path, p in state["params"].items()}
        params = project(moved, student.bounds)
        # The norm of params - p, not of rate * direction: XLA then computes the norm in the same pass that writes the parameters.
        # On TPUs that pass moves 28 bytes per parameter instead of 40.
        change = {path: params[path] - p for path, p in state["params"].items()}
        batch_stats = {**before, **stats}
        if temperature is not None:  # stored in the network, so that a checkpoint states its temperature
            batch_stats[student.temperature] = temperature.astype(batch_stats[student.temperature].dtype)
        new_state = {
            "step": state["step"] + 1,
            "params": params,
            "batch_stats": batch_stats,
            "opt_state": opt_state,
        }
        metrics = {
            "loss": loss,
            **hits,
            "undecodable": (batch["undecodable"] >= 0).sum() if "undecodable" in batch else jnp.zeros((), jnp.int32),
            "stop": flag.sum(),
            "grad_norm": optax.tree.norm(grads),
            **group_norms("grad_norm", grads, groups),
            **group_norms("update_norm", change, groups),
            **group_norms("param_norm", state["params"], groups),
            "learning_rate": rate,
            **({} if temperature is None else {"temperature": temperature}),
        }
        return new_state, metrics

    return step


def _divided_by(count):
    """Returns total -> total / count. Integers (the batch counter of batch norm) are equal in all pieces, so // is exact."""
    return lambda total: total / count if jnp.issubdtype(total.dtype, jnp.floating) else total // count


def _hits(logits, labels):
    return (logits.argmax(-1) == labels).sum()


def compile_step(step: Callable[..., Any], shardings: Shardings, state: dict[str, Any]) -> jax.stages.Wrapped:
    """Wraps the step in jax.jit, with donated state and explicit shardings.

    All arguments of the jitted step must already lie on the mesh; otherwise the run compiles more than once.

    Args:
      step: from make_step.
      shardings: the device mesh.
      state: the training state, or its shapes.
    """
    whole, batch, lies = shardings.replicated, shardings.batch, shardings.of_state(state)
    return jax.jit(step, donate_argnums=0, in_shardings=(lies, batch, batch, whole), out_shardings=(lies, whole))
