"""AdamW with the reference's two decay groups, its gradient clip, and the per-epoch schedules (SPEC section 3)."""

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


def learning_rate(config, epochs, epoch):
    """Learning rate of an epoch, constant inside it.

    e < warmup: warmup_rate + e (rate - warmup_rate) / warmup; then final + 0.5 (rate - final) (1 + cos(pi (e - warmup) / epochs)).

    Args:
      config: OptimizerConfig. epochs: length of the run. epoch: integer scalar, traced or not.
    """
    epoch = jnp.asarray(epoch) * jnp.ones(())  # the default float type: float64 where it is enabled
    warmup = config.warmup_epochs
    rising = config.warmup_rate + epoch * (config.learning_rate - config.warmup_rate) / max(warmup, 1)
    cosine = 1 + jnp.cos(jnp.pi * (epoch - warmup) / epochs)
    falling = config.final_rate + 0.5 * (config.learning_rate - config.final_rate) * cosine
    return jnp.where(epoch < warmup, rising, falling)


def temperature(config, epochs, epoch):
    """Temperature of an epoch, constant inside it.

    decay^epoch; with exact_from = s: 1e-7^(epoch / (s epochs)) and 0 (exact signs) from epoch s * epochs on.

    Args:
      config: TemperatureConfig. epochs: length of the run. epoch: integer scalar, traced or not.
    """
    epoch = jnp.asarray(epoch) * jnp.ones(())
    if config.exact_from is None:
        return jnp.power(config.decay, epoch)
    anneal = config.exact_from * epochs
    return jnp.where(epoch < anneal, jnp.power(1e-7, epoch / anneal), 0.0)
