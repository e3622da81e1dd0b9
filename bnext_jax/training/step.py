"""The training step: student forward, teachers' forward, loss, gradients, AdamW, projection, as one pure function.

state = {"step", "params", "batch_stats", "opt_state"}      donated
batch = {"image": [N,H,W,3] uint8, or floating and already normalised; "label": [N] int32}
        and, from the pipeline, "undecodable": [N], the index of each image that was replaced, -1 for all others
flag = [devices], this process's wish to stop (see training.preemption), summed over all
teachers = {"main": variables, "assistant": variables}      frozen, not donated, not differentiated
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from bnext_jax.distill import losses
from bnext_jax.nn.network import project
from bnext_jax.nn.normalise import normalise
from bnext_jax.training import schedules


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What the step needs to know of the configuration, as plain values.

    steps_per_epoch, epochs: length. mean, std: of pixels in [0, 1]. dtype, teacher_dtype: of the activations.
    form, group: of the distillation loss and batch norm (see distill). optimizer, temperature: their configs.
    accumulate: pieces that a batch is computed in, one after another.
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
    accumulate: int = 1


def initial_state(network, params, batch_stats, optimizer):
    """{"step", "params", "batch_stats", "opt_state"}: the parameters projected, the optimizer at zero."""
    params = project(params, network.bounds)
    state = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "batch_stats": dict(batch_stats),
        "opt_state": optimizer.init(params),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)  # no weak types, or the second step would compile again


def norm_groups(network):
    """{path: "latent", "weights" or "rest"}: the groups that norms are logged for, the optimizer's with the latent weights apart."""
    return {path: "latent" if path in network.latent else group for path, group in network.decay_groups.items()}


def group_norms(name, tree, groups):
    """{"NAME/GROUP": 2-norm of all arrays of a group, scalar}. tree: {path: array}; groups: {path: group}."""
    chosen = {group: [tree[path] for path in tree if groups[path] == group] for group in sorted(set(groups.values()))}
    return {f"{name}/{group}": optax.tree.norm(arrays) for group, arrays in chosen.items()}


def make_step(student, teachers, optimizer, spec, shardings):
    """The step as a function of arrays alone.

    Args:
      student: nn.network.Network, a training view.
      teachers: {"main": Network, "assistant": Network}, evaluation views; one of them or none. Each is given its
        variables at every call.
      optimizer: from training.optimizers.adamw.
      spec: StepSpec. shardings: training.mesh.Shardings.
    Returns:
      step(state, batch, flag, teacher_variables) -> (state, metrics); metrics are scalars: loss (nats), correct (count of
      top-1 hits among the batch), correct/main and correct/assistant (the teachers'), undecodable (count), stop (sum of
      the flag), grad_norm (before clipping), grad_norm/, update_norm/ and param_norm/GROUP (2-norms of the gradients
      before clipping, of the change with its projection, and of the parameters before it; groups: norm_groups),
      learning_rate, temperature.
    """
    groups = norm_groups(student)

    def loss_fn(params, batch_stats, batch, temperature, teacher_variables):
        images, labels = normalise(batch["image"], spec.mean, spec.std, spec.dtype), batch["label"]
        logits, stats = student({**batch_stats, **params}, images, temperature)
        hits = {"correct": _hits(logits, labels)}
        if not teachers:
            return losses.cross_entropy(logits, labels).mean(), (stats, hits)
        seen = images.astype(spec.teacher_dtype)
        answers = {role: jax.lax.stop_gradient(teachers[role](teacher_variables[role], seen)[0]) for role in sorted(teachers)}
        hits |= {f"correct/{role}": _hits(answer, labels) for role, answer in answers.items()}
        loss = losses.distillation_loss(logits, list(answers.values()), form=spec.form, group=spec.group)
        return loss, (stats, hits)

    def gradients(params, batch_stats, batch, *rest):
        """Of the whole batch; or, in pieces, the means that the whole batch would give, its batch-norm groups being whole in a piece."""
        compute = jax.value_and_grad(loss_fn, has_aux=True)
        if spec.accumulate == 1:
            return compute(params, batch_stats, batch, *rest)
        pieces = shardings.microbatches(batch, spec.accumulate)

        def add(total, piece):
            return jax.tree.map(jnp.add, total, compute(params, batch_stats, piece, *rest)), None

        one = jax.eval_shape(compute, params, batch_stats, jax.tree.map(lambda x: x[0], pieces), *rest)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)
        ((loss, (stats, hits)), grads), _ = jax.lax.scan(add, zeros, pieces)
        loss, stats, grads = jax.tree.map(_divided_by(spec.accumulate), (loss, stats, grads))
        return (loss, (stats, hits)), grads

    def step(state, batch, flag, teacher_variables):
        epoch = state["step"] // spec.steps_per_epoch
        rate = schedules.learning_rate(spec.optimizer, spec.epochs, epoch)
        temperature = schedules.temperature(spec.temperature, spec.epochs, epoch)
        inputs = {name: batch[name] for name in ("image", "label")}
        whole = shardings.gathered(state["params"])
        (loss, (stats, hits)), grads = gradients(whole, state["batch_stats"], inputs, temperature, teacher_variables)
        grads = shardings.split(grads)

        direction, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        moved = {path: p - (rate * direction[path]).astype(p.dtype) for path, p in state["params"].items()}
        params = project(moved, student.bounds)
        # what has become of them, not rate * direction: so the norm is taken in the pass that writes them (on TPUs 28 bytes each, not 40)
        change = {path: params[path] - p for path, p in state["params"].items()}
        batch_stats = {**state["batch_stats"], **stats}
        if "temperature" in batch_stats:  # a saved network says at which temperature it stands
            batch_stats["temperature"] = temperature.astype(batch_stats["temperature"].dtype)
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
            "temperature": temperature,
        }
        return new_state, metrics

    return step


def _divided_by(count):
    return lambda total: total / count if jnp.issubdtype(total.dtype, jnp.floating) else total // count


def _hits(logits, labels):
    return (logits.argmax(-1) == labels).sum()


def compile_step(step, shardings, state):
    """jax.jit of the step with donated state and explicit shardings.

    shardings: training.mesh.Shardings. state: the training state, or its shapes. Everything that goes in must have been put on the
    mesh, so that the run compiles once.
    """
    whole, batch, lies = shardings.replicated, shardings.batch, shardings.of_state(state)
    return jax.jit(step, donate_argnums=0, in_shardings=(lies, batch, batch, whole), out_shardings=(lies, whole))
