"""The quantizer of BNext's quantized edition (stem, gates and classifier at 8 or 4 bit; SPEC section 5)."""

import jax.numpy as jnp
from flax import nnx
from jax import lax

EPSILON = 1e-8  # added to the range, so that a constant tensor divides by something
CLIP, CLASSIFIER_CLIP = 1000.0, 25.0  # limits at first


class Clip(nnx.Variable):
    """What the state dict of a quantized layer holds beside weights: clip limits [low, high], the classifier's unused scale."""


def quantize(x, bits, axes, clip):
    """Asymmetric min-max quantization, dynamic, with a straight-through gradient.

    Forward: with c = clip(x), lo and hi its minimum and maximum over `axes`, s = hi - lo + 1e-8 and n = 2^bits - 1,
    round((c - lo) / s * n) / n * s + lo, halves to even. Backward: dL/dx = dL/dy inside the clip's limits, 0 at and beyond.

    Args:
      x: floating array. bits: of one value. axes: that share a range. clip: array [2], lowest and highest value.
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
    """Quantizes one layer's kernel and input.

    Args:
      bits: of both. axes: of the kernel that share a range; every axis but the last shares the factor 2 mean|w|.
      limit: the clip's limits at first, +-limit. unused_scale: whether the state dict holds the classifier's unused scale.
    """

    def __init__(self, bits, axes, *, limit=CLIP, unused_scale=False):
        self.bits, self.axes = bits, axes
        self.weight_clip, self.input_clip = Clip(jnp.array([-limit, limit])), Clip(jnp.array([-limit, limit]))
        self.scale = Clip(jnp.zeros(())) if unused_scale else None

    def kernel(self, kernel):
        """factor * quantize(kernel / factor), factor = 2 mean|w| of each output channel, a constant to the gradient."""
        factor = lax.stop_gradient(2 * jnp.abs(kernel).mean(tuple(range(kernel.ndim - 1)), keepdims=True))
        factor = jnp.where(factor > 0, factor, 1)  # a channel of zeros stays one
        return quantize(kernel / factor, self.bits, self.axes, self.weight_clip[...]) * factor

    def input(self, x):
        """[..., C], quantized with one range for each vector."""
        return quantize(x, self.bits, (-1,), self.input_clip[...])
