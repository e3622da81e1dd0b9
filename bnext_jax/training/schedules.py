"""Schedules of the learning rate and the temperature, one value per epoch (docs/spec.md, section 3), and of switches."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from bnext_jax.config import OptimizerConfig, TemperatureConfig


def learning_rate(config: OptimizerConfig, epochs: int, epoch: ArrayLike) -> jax.Array:
    """Returns the learning rate of an epoch.

    With e = epoch, warmup = config.warmup_epochs, peak = config.learning_rate, and end = config.schedule_epochs or epochs:

        e < warmup:   warmup_rate + e (peak - warmup_rate) / warmup
        bnext:        final_rate + 0.5 (peak - final_rate) (1 + cos(pi (e - warmup) / epochs))
        cosine:       final_rate + 0.5 (peak - final_rate) (1 + cos(pi s)),   s = min(1, (e - warmup) / (end - warmup))
        linear:       final_rate + (peak - final_rate) (1 - s),               s = min(1, (e + ahead - warmup) / (end - warmup))
        steps:        peak * step_factor^(number of step_epochs that are at most e)

    bnext does not finish within the run: it would reach final_rate at epoch `epochs + warmup`, as in the reference.

    Args:
      config: the fields named in the formula.
      epochs: length of the run.
      epoch: scalar, traced or not: a whole number, or with a fraction inside an epoch.
    Returns:
      Scalar, of JAX's default float type.
    """
    epoch = jnp.asarray(epoch) * jnp.ones(())  # converts to the default float type: float64 if x64 is enabled
    warmup, peak, final = config.warmup_epochs, config.learning_rate, config.final_rate
    length = (config.schedule_epochs or epochs) - warmup
    rising = config.warmup_rate + epoch * (peak - config.warmup_rate) / max(warmup, 1)
    if config.schedule == "steps":
        passed = sum((epoch >= at).astype(epoch.dtype) for at in config.step_epochs)
        falling = peak * config.step_factor**passed
    elif config.schedule == "linear":
        falling = final + (peak - final) * (1 - jnp.minimum(1.0, (epoch + config.ahead - warmup) / length))
    else:
        done = (epoch - warmup) / epochs if config.schedule == "bnext" else jnp.minimum(1.0, (epoch - warmup) / length)
        cosine = 1 + jnp.cos(jnp.pi * done)
        falling = final + 0.5 * (peak - final) * cosine
    return jnp.where(epoch < warmup, rising, falling)


def temperature(config: TemperatureConfig, epochs: int, epoch: ArrayLike) -> jax.Array:
    """Returns the temperature of the weight quantizer in an epoch. It is constant within the epoch.

    Without config.exact_from: decay^epoch. With config.exact_from = s:

        epoch < s * epochs:    1e-7^(epoch / (s * epochs))
        epoch >= s * epochs:   0, which means exact signs; with s = 0 from the first step on

    Args:
      config: the fields `decay` and `exact_from`.
      epochs: length of the run.
      epoch: integer scalar, traced or not.
    Returns:
      Scalar, of JAX's default float type.
    """
    epoch = jnp.asarray(epoch) * jnp.ones(())
    if config.exact_from is None:
        return jnp.power(config.decay, epoch)
    anneal = config.exact_from * epochs
    if not anneal:
        return 0 * epoch
    return jnp.where(epoch < anneal, jnp.power(1e-7, epoch / anneal), 0.0)


def switches(rules: Mapping[str, tuple[str, int]], step: ArrayLike, epoch: ArrayLike) -> dict[str, jax.Array]:
    """Returns {path: boolean scalar}, the switches of a network in a step: on where the step or the epoch is at least `since`.

    Args:
      rules: {path: (unit, since)}, see nn.network.Network.
      step: integer scalar, traced or not.
      epoch: likewise, the epoch of the step.
    """
    now = {"step": step, "epoch": epoch}
    return {path: jnp.asarray(now[unit]) >= since for path, (unit, since) in rules.items()}
