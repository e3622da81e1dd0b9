"""Selects one of two forms of a computation by platform."""

from collections.abc import Callable

import jax
from jax import lax


def choose(cpu: Callable[..., jax.Array], default: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
    """Runs `cpu` where the program is compiled for a CPU, and `default` on every other platform.

    JAX makes the choice at lowering time. So a program compiled for a TPU on a machine without a TPU contains the TPU form.

    Args:
      cpu: function of the operands.
      default: function of the operands, with a result of the same shape and type as that of `cpu`.
      *operands: arrays.
    Returns:
      cpu(*operands) or default(*operands).
    """
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
