"""Losses: cross-entropy with labels, and knowledge distillation from one or two teachers.

Formulas: Guo et al. 2022, arXiv 2211.12933, section 3.3; docs/spec.md, section 4. z are the student's logits, and p_k is the softmax of
teacher k's logits. The softmax temperature is 1. There is no label term:

    H[n,k] = -sum_c p_k[n,c] log_softmax(z_n)[c]        alpha[n,:] = softmax_k(H[n,:]), no gradient through alpha
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bnext_jax.nn.layers import accumulation_dtype


def _groups(values: jax.Array, group: int | None) -> jax.Array:
    """[N] -> [groups, examples per group]."""
    return values.reshape(-1, group or values.shape[0])


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The cross-entropy of each example with its label: -log_softmax(logits)[label].

    Args:
      logits: [N, C], any floating type.
      labels: [N], integers in [0, C).
    Returns:
      [N] in nats, in at least float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(accumulation_dtype(logits.dtype)))
    return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def soft_cross_entropy(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """The cross-entropy H[n] of each example with one teacher's softmax.

    Args:
      logits: the student's, [N, C], any floating type.
      teacher_logits: [N, C], any floating type.
    Returns:
      [N] in nats, in the student's type, but at least float32.
    """
    dtype = accumulation_dtype(logits.dtype)
    targets = jax.nn.softmax(teacher_logits.astype(dtype))
    return -(targets * jax.nn.log_softmax(logits.astype(dtype))).sum(-1)


def distillation_loss(
    logits: jax.Array, teacher_logits: Sequence[jax.Array], *, form: str = "product_of_means", group: int | None = None
) -> jax.Array:
    """The distillation loss from one or two teachers, in one of two forms.

    - "product_of_means", the behavior of the authors' code: 1/2 sum_k mean_n(H[n,k]) mean_n(alpha[n,k]) in each group of examples, then
      the mean over the groups. So the result does not depend on the number of devices.
    - "per_instance", the paper's text: 1/2 mean_n sum_k alpha[n,k] H[n,k].

    With one teacher, both forms are 1/2 mean_n H[n].

    Args:
      logits: the student's, [N, C], any floating type.
      teacher_logits: one or two arrays [N, C].
      form: "product_of_means" or "per_instance".
      group: examples per group; it divides N. None = one group of N. "per_instance" does not use it.
    Returns:
      Scalar in nats.
    Raises:
      ValueError: unknown form.
    """
    h = jnp.stack([soft_cross_entropy(logits, teacher) for teacher in teacher_logits])  # [K,N]
    alpha = jax.lax.stop_gradient(jax.nn.softmax(h, axis=0))
    if form == "per_instance":
        return 0.5 * (alpha * h).sum(0).mean()
    if form != "product_of_means":
        raise ValueError(f"unknown form {form!r}")
    products = [_groups(h_k, group).mean(1) * _groups(a_k, group).mean(1) for h_k, a_k in zip(h, alpha, strict=True)]
    return 0.5 * sum(products[1:], products[0]).mean()


def assistant_index(epoch: int, epochs: int, assistants: int) -> int:
    """The index of the assistant that teaches in `epoch`: floor(epoch / (epochs / assistants)).

    Args:
      epoch: counted from 0.
      epochs: length of the run.
      assistants: number of assistants.
    Returns:
      An index below `assistants`, also for epochs after the end.
    """
    return min(int(epoch // (epochs / assistants)), assistants - 1)
