"""AdamW with the reference's two decay groups, and its gradient clip (SPEC section 3)."""

import jax
import jax.numpy as jnp
import optax

CLIP_EPSILON = 1e-6


def clip_by_global_norm(max_norm):
    """PyTorch's clip: every gradient times min(1, max_norm / (norm + 1e-6)), norm being the global 2-norm."""

    def update(grads, _params):
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + CLIP_EPSILON))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(update)


def adamw(config, decay_groups):
    """Clip, then Adam's direction plus decoupled weight decay; the learning rate is applied by the step.

    Args:
      config: OptimizerConfig.
      decay_groups: {parameter path: "weights" or "rest"}.
    Returns:
      An optax.GradientTransformation over a flat dict of parameters: direction = m/(sqrt(v) + eps) + decay * p, with
      m and v bias-corrected (Loshchilov and Hutter, arXiv 1711.05101).
    """
    rates = {"weights": config.decay_weights, "rest": config.decay_rest}
    decay = optax.stateless(lambda updates, params: {path: u + rates[decay_groups[path]] * params[path] for path, u in updates.items()})
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)
    return optax.chain(clip_by_global_norm(config.clip_norm), adam, decay)
