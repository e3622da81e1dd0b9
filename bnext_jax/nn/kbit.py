"""The interface of the quantizers of 8-bit and 4-bit layers, and the quantizer of BNext's quantized edition (docs/spec.md, section 5)."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
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


def _factor(kernel):
    """2 mean|w| of each output channel, a constant to the gradient, with its axes kept. 1 where it is 0: a channel of zeros stays zero."""
    factor = lax.stop_gradient(2 * jnp.abs(kernel).mean(tuple(range(kernel.ndim - 1)), keepdims=True))
    return jnp.where(factor > 0, factor, 1)


class KernelQuantizer(nnx.Module):
    """The interface of the quantizers of 8-bit and 4-bit layers. A layer has one as its `quantizer`; `count` and packed files use it.

    Attributes:
      bits: bits of a kernel value, 4 or 8.
      axes: axes of the kernel that share a range.
      keeps_kernel: True means that the layer's kernel has its quantized values already, as in a packed network.
    """

    bits: int
    axes: tuple[int, ...]
    keeps_kernel = False

    def kernel(self, kernel: jax.Array) -> jax.Array:
        """Quantizes a kernel [..., O] of any floating type. The shape and type of the kernel."""
        return kernel if self.keeps_kernel else self.quantized(kernel)

    @abc.abstractmethod
    def quantized(self, kernel: jax.Array) -> jax.Array:
        """What `kernel` returns unless the layer keeps its kernel."""

    @abc.abstractmethod
    def coded(self, kernel: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The quantized kernel as whole numbers.

        Args:
          kernel: [..., O].
        Returns:
          (codes from 0 to 2^bits - 1 in the shape of the kernel, low, step). low and step are float32 and have the shape of the kernel
          without `axes`. codes * step + low is the quantized kernel.
        """

    def refitted(self, kernel: jax.Array) -> dict[str, jax.Array]:
        """New values {name of a variable: array} of this quantizer's own variables with which it changes a quantized kernel least."""
        del kernel
        return {}


class Quantizer(KernelQuantizer):
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

    def quantized(self, kernel: jax.Array) -> jax.Array:
        """Quantizes a kernel: factor * quantize(kernel / factor).

        The factor is 2 mean|w| of each output channel. It is a constant to the gradient.

        Args:
          kernel: [..., O], any floating type.
        Returns:
          The shape and type of kernel.
        """
        factor = _factor(kernel)
        return quantize(kernel / factor, self.bits, self.axes, self.weight_clip[...]) * factor

    def coded(self, kernel: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See KernelQuantizer. These are the numbers of `quantize`."""
        kernel = kernel.astype(jnp.float32)
        factor = _factor(kernel)
        x = jnp.clip(kernel / factor, *self.weight_clip[...])
        low, high = x.min(self.axes, keepdims=True), x.max(self.axes, keepdims=True)
        span, levels = high - low + EPSILON, 2**self.bits - 1
        codes = jnp.round((x - low) / span * levels)
        # The products in float64, rounded once: the network rounds each weight, a file can only round the two numbers of a range.
        exact = np.asarray(factor, np.float64)
        ends = np.asarray(low, np.float64) * exact, np.asarray(span, np.float64) * exact / levels
        lowest, step = (end.astype(np.float32).squeeze(self.axes) for end in ends)
        return np.asarray(codes), lowest, step

    def refitted(self, kernel: jax.Array) -> dict[str, jax.Array]:
        """Wider clip limits; none where the kernel does not reach its limits.

        The factor 2 mean|w| of a kernel that was clipped is another one than before. Limits that cut again would change the weights.
        """
        reach = float(jnp.abs(kernel / _factor(kernel)).max())
        low, high = map(float, self.weight_clip[...])
        return {} if 1.01 * reach < min(-low, high) else {"weight_clip": jnp.array([min(low, -2 * reach), max(high, 2 * reach)])}

    def input(self, x: jax.Array) -> jax.Array:
        """Quantizes an input [..., C] with one range per vector of C values."""
        return quantize(x, self.bits, (-1,), self.input_clip[...])
