"""AQT's multi-bit quantizers, which PokeBNN has around its binary convolutions (Zhang et al. 2021, arXiv 2112.00133).

The bound B of a tensor is the largest magnitude that the codes can hold. No gradient goes through it. With eps = 2^-23:

    signed, b bits      s = (2^(b-1) - 1) / (B + eps), L = 2^(b-1) - 1, y = floor(clip(x s, -L, L) + 1/2) / s
                        dL/dx = dL/dy inside the clip, half of it where abs(x s) = L, else 0
    unsigned, b bits    s = 2^b / (B + eps), L = 2^b - 1, y = clip(floor(x s), 0, L) / s
                        dL/dx = dL/dy where 0 < floor(x s) < L, half of it where floor(x s) is 0 or L, else 0
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from bnext_jax.nn.quantizers import clip_slope

EPSILON = 2.0**-23  # a bound may be 0
UNSET = -1.0  # a stored bound before it is set: the input passes unchanged


@dataclasses.dataclass(frozen=True)
class AqtQuantizer:
    """Rounds values to signed or unsigned codes of a few bits. See the module for the formulas.

    Attributes:
      bits: b.
      signed: whether codes may be negative.
    """

    bits: int
    signed: bool = True

    def scale(self, bound: jax.Array) -> jax.Array:
        """s, codes per unit, in the shape of the bound."""
        return (2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits) / (bound + EPSILON)

    def codes(self, x: jax.Array, bound: jax.Array) -> jax.Array:
        """The whole numbers y s, in the shape and type of x."""
        scaled = x * self.scale(bound)
        if self.signed:
            limit = 2 ** (self.bits - 1) - 1
            return jnp.floor(jnp.clip(scaled, -limit, limit) + 0.5)
        return jnp.clip(jnp.floor(scaled), 0, 2**self.bits - 1)

    def __call__(self, x: jax.Array, bound: jax.Array) -> jax.Array:
        """Quantizes x.

        Args:
          x: any floating type.
          bound: B >= 0, broadcasts with x.
        Returns:
          y, in the shape and type of x.
        """
        return _quantized(self, x, lax.stop_gradient(bound))

    def input(self, x: jax.Array, bound: jax.Array) -> jax.Array:
        """Quantizes x, or returns it unchanged if all entries of the bound are -1, which means that it is not set yet."""
        return jnp.where((bound == UNSET).all(), x, self(x, bound))

    def weights(self, kernel: jax.Array) -> jax.Array:
        """Quantizes a kernel [..., O] with the bound max abs(kernel) of each output channel."""
        return self(kernel, weight_bound(kernel))


def weight_bound(kernel: jax.Array) -> jax.Array:
    """The largest magnitude of each output channel: [..., O] to [O]."""
    return jnp.abs(kernel).max(tuple(range(kernel.ndim - 1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _quantized(quantizer, x, bound):
    return (quantizer.codes(x, bound) / quantizer.scale(bound)).astype(x.dtype)


def _backward(quantizer, saved, gradient):
    x, bound = saved
    scaled = x * quantizer.scale(bound)
    if quantizer.signed:
        slope = clip_slope(scaled, 2 ** (quantizer.bits - 1) - 1)
    else:
        middle = (2**quantizer.bits - 1) / 2
        slope = clip_slope(jnp.floor(scaled) - middle, middle)
    return gradient * slope.astype(gradient.dtype), jnp.zeros_like(bound)


_quantized.defvjp(lambda quantizer, x, bound: (_quantized(quantizer, x, bound), (x, bound)), _backward)
