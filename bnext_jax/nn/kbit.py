"""The 8-bit and 4-bit quantizer of BNext's quantized edition: stem, gates and classifier (docs/spec.md, section 5)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

EPSILON = 1e-8  # added to the range: a constant tensor has the range 0 and would divide by 0
CLIP, CLASSIFIER_CLIP = 1000.0, 25.0  # initial clip limits, +-CLIP


class Clip(nnx.Variable):
    """A value that the PyTorch state dict of a quantized layer holds beside the weights.

    It is a pair of clip limits [low, high], or the classifier's scale, which nothing uses.
    """


def quantize(x: jax.Array, bits: int, axes: tuple[int, ...], clip: jax.Array) -> jax.Array:
    """Quantizes with a dynamic, asymmetric min-max range and a straight-through estimator.

    Forward: c = clip(x). lo and hi are the minimum and the maximum of c over `axes`. With s = hi - lo + 1e-8 and n = 2^bits - 1,
    the result is round((c - lo) / s * n) / n * s + lo. Halves round to even.
    Backward: dL/dx = dL/dy inside the clip limits, and 0 at the limits and beyond.

    Args:
      x: array of any floating type.
      bits: bits of one value.
      axes: axes that share a range.
      clip: [2], the lowest and the highest value.
    Returns:
      The shape and type of x.
    """
    low, high = clip[0].astype(x.dtype), clip[1].astype(x.dtype)
    x = jnp.where((x > low) & (x < high), x, lax.stop_gradient(jnp.clip(x, low, high)))
    lo, hi = lax.stop_gradient(x.min(axes, keepdims=True)), lax.stop_gradient(x.max(axes, keepdims=True))
    span, levels = hi - lo + EPSILON, 2**bits - 1
    rounded = jnp.round((x - lo) / span * levels) / levels * span + lo
    return x + lax.stop_gradient(rounded - x)


class Quantizer(nnx.Module):
    """Quantizes the kernel and the input of one layer.

    Args:
      bits: bits of a kernel value and of an input value.
      axes: axes of the kernel that share a range. All axes but the last share the factor 2 mean|w|.
      limit: initial clip limits, +-limit.
      unused_scale: whether the state dict holds the classifier's unused scale.
    """

    def __init__(self, bits: int, axes: tuple[int, ...], *, limit: float = CLIP, unused_scale: bool = False) -> None:
        self.bits, self.axes = bits, axes
        self.weight_clip, self.input_clip = Clip(jnp.array([-limit, limit])), Clip(jnp.array([-limit, limit]))
        self.scale = Clip(jnp.zeros(())) if unused_scale else None

    def kernel(self, kernel: jax.Array) -> jax.Array:
        """Quantizes a kernel: factor * quantize(kernel / factor).

        The factor is 2 mean|w| of each output channel. It is a constant to the gradient.

        Args:
          kernel: [..., O], any floating type.
        Returns:
          The shape and type of kernel.
        """
        factor = lax.stop_gradient(2 * jnp.abs(kernel).mean(tuple(range(kernel.ndim - 1)), keepdims=True))
        factor = jnp.where(factor > 0, factor, 1)  # a channel of zeros stays zero
        return quantize(kernel / factor, self.bits, self.axes, self.weight_clip[...]) * factor

    def input(self, x: jax.Array) -> jax.Array:
        """Quantizes an input [..., C] with one range per vector of C values."""
        return quantize(x, self.bits, (-1,), self.input_clip[...])
