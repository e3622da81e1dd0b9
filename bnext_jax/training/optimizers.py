"""AdamW with the two weight-decay groups and the gradient clipping of the reference code (docs/spec.md, section 3)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from bnext_jax.config import OptimizerConfig

CLIP_EPSILON = 1e-6


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips gradients by their global norm, with PyTorch's formula.

    Multiplies every gradient by min(1, max_norm / (norm + 1e-6)), where norm is the 2-norm of all gradients together.

    Args:
      max_norm: upper bound of the global norm.
    Returns:
      A stateless transformation.
    """

    def update(grads, _params):
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + CLIP_EPSILON))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(update)


def adamw(config: OptimizerConfig, decay_groups: Mapping[str, str]) -> optax.GradientTransformation:
    """AdamW without the learning rate: clips gradients, then computes Adam's direction plus decoupled weight decay.

    The result is direction = m / (sqrt(v) + epsilon) + decay * p, where m and v are the bias-corrected moments of the clipped
    gradients (Loshchilov and Hutter 2017, arXiv 1711.05101). The training step multiplies the direction by the learning rate and
    subtracts it from the parameters.

    Args:
      config: betas, epsilon, clip norm and the two decay rates.
      decay_groups: {parameter path: "weights" or "rest"}.
    Returns:
      A transformation over a flat dict of parameters.
    """
    rates = {"weights": config.decay_weights, "rest": config.decay_rest}
    decay = optax.stateless(lambda updates, params: {path: u + rates[decay_groups[path]] * params[path] for path, u in updates.items()})
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    return optax.chain(clip_by_global_norm(config.clip_norm), adam, decay)
