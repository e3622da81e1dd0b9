"""The per-epoch schedules of the learning rate and the temperature (SPEC section 3)."""

import jax.numpy as jnp


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
