"""Losses: cross-entropy with labels, and knowledge distillation.

BNext's forms (one or two teachers): Guo et al. 2022, arXiv 2211.12933, section 3.3; docs/spec.md, section 4. The attention maps:
Zagoruyko and Komodakis 2016, arXiv 1612.03928, as Martinez et al. 2020, arXiv 2003.11535, use them. z are the student's logits, and p_k is
the softmax of teacher k's logits. The softmax temperature is 1:

    H[n,k] = -sum_c p_k[n,c] log_softmax(z_n)[c]        alpha[n,:] = softmax_k(H[n,:]), no gradient through alpha
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bnext_jax.config import DistillConfig
from bnext_jax.errors import UserError
from bnext_jax.nn.layers import accumulation_dtype


def _groups(values: jax.Array, group: int | None) -> jax.Array:
    """[N] -> [groups, examples per group]."""
    return values.reshape(-1, group or values.shape[0])


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """The cross-entropy of each example with its label: -log_softmax(logits)[label].

    With label smoothing s it is (1 - s) of that plus s times the mean of -log_softmax(logits) over all classes (Szegedy et al. 2015,
    arXiv 1512.00567).

    Args:
      logits: [N, C], any floating type.
      labels: [N], integers in [0, C).
      smoothing: s, in [0, 1).
    Returns:
      [N] in nats, in at least float32.
    """
    log_p = jax.nn.log_softmax(logits.astype(accumulation_dtype(logits.dtype)))
    hard = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return (1 - smoothing) * hard - smoothing * log_p.mean(-1) if smoothing else hard


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
    """The distillation loss, in a form without labels.

    - "product_of_means", the behavior of BNext's code, for one or two teachers: 1/2 sum_k mean_n(H[n,k]) mean_n(alpha[n,k]) in each group
      of examples, then the mean over the groups. So the result does not depend on the number of devices.
    - "per_instance", the text of BNext's paper, for one or two teachers: 1/2 mean_n sum_k alpha[n,k] H[n,k].
    - "teacher", as in ReActNet and PokeBNN: the mean of H over examples, and over the teachers.

    With one teacher, BNext's two forms are 1/2 mean_n H[n].

    Args:
      logits: the student's, [N, C], any floating type.
      teacher_logits: one or two arrays [N, C].
      form: "product_of_means", "per_instance" or "teacher".
      group: examples per group; it divides N. None = one group of N. Only "product_of_means" uses it.
    Returns:
      Scalar in nats.
    Raises:
      ValueError: unknown form.
    """
    h = jnp.stack([soft_cross_entropy(logits, teacher) for teacher in teacher_logits])  # [K,N]
    if form == "teacher":
        return h.mean()
    alpha = jax.lax.stop_gradient(jax.nn.softmax(h, axis=0))
    if form == "per_instance":
        return 0.5 * (alpha * h).sum(0).mean()
    if form != "product_of_means":
        raise ValueError(f"unknown form {form!r}")
    products = [_groups(h_k, group).mean(1) * _groups(a_k, group).mean(1) for h_k, a_k in zip(h, alpha, strict=True)]
    return 0.5 * sum(products[1:], products[0]).mean()


def divergence(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """The divergence KL(teacher || student) of each example: sum_c p[c] (log p[c] - log_softmax(z)[c]), p the teacher's softmax.

    Arguments and result: see soft_cross_entropy.
    """
    dtype = accumulation_dtype(logits.dtype)
    log_p = jax.nn.log_softmax(teacher_logits.astype(dtype))
    return (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits.astype(dtype)))).sum(-1)


def attention_difference(maps: Sequence[jax.Array], teacher_maps: Sequence[jax.Array]) -> jax.Array:
    """The difference between the attention maps of two networks.

    The attention map of a feature map is q[i,j] = mean over channels of x[i,j]^2, divided by the largest q of the image. The difference is
    the mean of (q_student - q_teacher)^2 over images and places, averaged over the feature maps.

    Args:
      maps: the student's feature maps, one for each block, each [N,H,W,C].
      teacher_maps: the teacher's, as many, each [N,H,W,C'] with the student's H and W.
    Returns:
      Scalar, in at least float32.
    Raises:
      UserError: the networks have different numbers of maps, or maps of different sizes.
    """
    check_sides(maps, teacher_maps)

    def attention(x):
        q = jnp.square(x.astype(accumulation_dtype(x.dtype))).mean(-1)
        largest = q.max((1, 2), keepdims=True)
        return q / jnp.where(largest > 0, largest, 1)  # a map of zeros stays one, with gradients that are numbers

    differences = [jnp.square(attention(a) - attention(b)).mean() for a, b in zip(maps, teacher_maps, strict=True)]
    return sum(differences[1:], differences[0]) / len(differences)


def check_sides(maps: Sequence[Any], teacher_maps: Sequence[Any]) -> None:
    """Raises UserError unless student and teacher have as many feature maps [N,H,W,C], and with the same H and W. Shapes suffice."""
    ours, theirs = ([x.shape[1:3] for x in both] for both in (maps, teacher_maps))
    if ours != theirs:
        student, teacher = (", ".join(f"{height}x{width}" for height, width in both) or "no" for both in (ours, theirs))
        raise UserError(
            f"attention maps cannot be compared: the student's blocks have maps of {student} pixels, the teacher's {teacher}; choose a"
            " teacher with the same blocks, or config.distill.attention_weight=0"
        )


def total_loss(
    logits: jax.Array,
    labels: jax.Array,
    answers: Sequence[jax.Array],
    maps: Sequence[jax.Array],
    teacher_maps: Sequence[Sequence[jax.Array]],
    distill: DistillConfig,
    *,
    smoothing: float = 0.0,
    group: int | None = None,
) -> jax.Array:
    """The loss of a batch.

    Without teachers it is the mean cross-entropy with the labels. The form "labels" adds, as Real-to-Binary does, kl_weight * mean KL and
    attention_weight * attention_difference, each averaged over the teachers. The other forms are those of distillation_loss.

    Args:
      logits: the student's, [N, C].
      labels: [N], integers in [0, C).
      answers: the teachers' logits, [N, C] each, without gradients; () without teachers.
      maps: the student's feature maps; read only with an attention_weight.
      teacher_maps: the feature maps of each teacher; read only with an attention_weight.
      distill: form and weights.
      smoothing: label smoothing, see cross_entropy.
      group: see distillation_loss.
    Returns:
      Scalar in nats, in at least float32.
    Raises:
      UserError: see attention_difference.
    """
    if answers and distill.form != "labels":
        return distillation_loss(logits, answers, form=distill.form, group=group)
    loss = cross_entropy(logits, labels, smoothing).mean()
    if answers and distill.kl_weight:
        loss += distill.kl_weight * jnp.stack([divergence(logits, answer).mean() for answer in answers]).mean()
    if answers and distill.attention_weight:
        loss += distill.attention_weight * jnp.stack([attention_difference(maps, theirs) for theirs in teacher_maps]).mean()
    return loss


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
