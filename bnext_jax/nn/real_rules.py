"""Real rules in the place of quantizers, for the first stages of a training that makes a network binary (module models.stages)."""

import dataclasses

import jax
import jax.numpy as jnp

from bnext_jax.nn.quantizers import ActivationQuantizer, WeightQuantizer, shifted


@dataclasses.dataclass(frozen=True)
class Tanh(ActivationQuantizer):
    """tanh in place of the sign, for the first stage of a training that makes a network binary (Martinez et al. 2020, arXiv 2003.11535).

    Forward: y = tanh(x + shift), a real value.
    Backward: dL/dx = dL/dy (1 - y^2), the derivative.
    """

    levels = None
    at_zero = 0.0

    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        """tanh(x + shift). The shape and type of x."""
        return jnp.tanh(shifted(x, shift)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class RealWeight(WeightQuantizer):
    """Real weights in place of binary ones, for the first stages of a training that makes a network binary.

    Forward: w, as it is. Backward: dL/dw = dL/d(output). Updates do not clip w.
    """

    bits = 32

    def __call__(self, latent: jax.Array, temperature: jax.Array | float | None = None) -> jax.Array:
        """The same array."""
        del temperature
        return latent

    def is_exact(self, temperature: float | None) -> bool:
        """False: the weights are not binary."""
        del temperature
        return False
