"""Losses: cross-entropy with labels, and knowledge distillation from one or two teachers (SPEC section 4; paper, section 3.3).

With student logits z and teachers k, p_k = softmax of teacher k's logits, softmax temperature 1, no label term:

    H[n,k] = -sum_c p_k[n,c] log_softmax(z_n)[c]        alpha[n,:] = softmax_k(H[n,:]), no gradient through alpha
"""

import jax
import jax.numpy as jnp

from bnext_jax.nn.layers import accumulation_dtype


def _groups(values, group):
    return values.reshape(-1, group or values.shape[0])


def cross_entropy(logits, labels):
    """-log_softmax(logits)[label] of each example: [N,C] floats, [N] integers -> [N]."""
    log_p = jax.nn.log_softmax(logits.astype(accumulation_dtype(logits.dtype)))
    return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]


def soft_cross_entropy(logits, teacher_logits):
    """H[n] of each example against one teacher: [N,C], [N,C] -> [N]."""
    dtype = accumulation_dtype(logits.dtype)
    targets = jax.nn.softmax(teacher_logits.astype(dtype))
    return -(targets * jax.nn.log_softmax(logits.astype(dtype))).sum(-1)


def distillation_loss(logits, teacher_logits, *, form="product_of_means", group=None):
    """The distillation loss.

      product_of_means (the reference's behaviour): 1/2 sum_k mean_n(H[n,k]) mean_n(alpha[n,k]) in each group of
        examples, then the mean over groups, so that the result does not depend on the number of devices.
      per_instance (the paper's text): 1/2 mean_n sum_k alpha[n,k] H[n,k].
      one teacher: both are 1/2 mean_n H[n].

    Args:
      logits: student, [N,C].
      teacher_logits: sequence of one or two arrays [N,C].
      form: see above.
      group: examples per group (None = N); it divides N.
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
    return 0.5 * sum(products).mean()


def assistant_index(epoch, epochs, assistants):
    """Which assistant teaches in `epoch`: floor(epoch / (epochs / assistants)), an index below `assistants`."""
    return min(int(epoch // (epochs / assistants)), assistants - 1)
