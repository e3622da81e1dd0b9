"""The real-valued layers: convolution, linear layer, PReLU, squeeze-and-excitation gate, pooling. Module batch_norm has batch norm.

Each parameter holds its weight-decay group as metadata. The group is "weights" for a parameter with four dimensions in the PyTorch
state dict (convolutions, gate convolutions, shift, scale), and "rest" for all others.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError
from bnext_jax.nn.convolution import border, plain
from bnext_jax.nn.grouped import grouped_convolution
from bnext_jax.nn.kbit import CLASSIFIER_CLIP, CLIP, Quantizer

PRELU_SLOPE = 0.25
Initializer = Callable[..., jax.Array]  # of (key, shape), as in jax.nn.initializers


def uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
    """Draws PyTorch's default initial weights or biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), a floating array of `shape`."""
    bound = fan_in**-0.5
    flat = jax.random.uniform(key, (math.prod(shape),), minval=-bound, maxval=bound)  # 1-D compiles faster than 4-D
    return flat.reshape(shape)


def drawn(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int, initializer: Initializer | None) -> jax.Array:
    """Draws a kernel from the stream "params": with the initializer, or PyTorch's default if it is None."""
    return uniform(rngs.params(), shape, fan_in) if initializer is None else initializer(rngs.params(), shape)


def accumulation_dtype(dtype: Any) -> jnp.dtype:
    """The type for sums and statistics: float64 for float64 data, else float32."""
    return jnp.promote_types(dtype, jnp.float32)


def average_pool(x: jax.Array, activation: Callable[[jax.Array], jax.Array] = lambda x: x) -> jax.Array:
    """Average-pools activation(x) over 2x2 windows with stride 2.

    Args:
      x: [N,H,W,C], any floating type.
      activation: elementwise function. It is applied inside this layer, so that its result is not written to memory
        (benchmarks/tpu_step.py).
    Returns:
      [N,H/2,W/2,C], the type of x.
    Raises:
      UserError: H or W is odd.
    """
    n, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise UserError(
            f"a unit with stride 2 cannot halve a {height}x{width} map; use an input size that every"
            " stride divides evenly (224, 64 and 32 do)"
        )
    # mean() would write float32 maps in a bfloat16 network (benchmarks/tpu_step.py). sum() writes none, and accumulates in float32 too
    windows = activation(x.reshape(n, height // 2, 2, width // 2, 2, channels))
    return windows.sum((2, 4), dtype=x.dtype) / 4


def max_pool(x: jax.Array, size: int, stride: int, padding: int | Literal["SAME"] = 0) -> jax.Array:
    """Max-pools x [N,H,W,C] over size x size windows. Padding is -infinity, see nn.convolution.border for its pixels."""
    pads = border(x.shape[1:3], size, stride, padding)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), ((0, 0), *pads, (0, 0)))


class PReLU(nnx.Module):
    """y = x where x > 0, else slope_c * x, with one slope per channel.

    Args:
      features: channels.
      slope: initial slope.
      kind: type of the slope's variable: nnx.Param, or Buffer for a slope that is kept but not trained.
    """

    def __init__(self, features: int, *, slope: float = PRELU_SLOPE, kind: type[nnx.Variable] = nnx.Param) -> None:
        self.slope = kind(jnp.full((features,), slope, float), decay="rest")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to [..., C]. The result has the shape and type of x."""
        return jnp.where(x > 0, x, x * self.slope[...].astype(x.dtype))


class Conv(nnx.Module):
    """A real convolution with PyTorch's initialization, and PyTorch's or TensorFlow's padding.

    Args:
      inputs: input channels.
      features: output channels.
      size: kernel side.
      stride: positive integer, in pixels.
      padding: pixels on all sides; None means size // 2. "SAME" is TensorFlow's rule: ceil(side / stride) output positions, and an
          odd pixel goes to the bottom and to the right.
      groups: feature groups; equal to `inputs` in a depthwise convolution.
      bias: whether the layer has a bias.
      weight_bits: bits of a quantized kernel, with one range per (input, output) pair; None means a float kernel. The layer never
          quantizes its input.
      initializer: draws the kernel, as a function of jax.nn.initializers; None means PyTorch's default.
      rngs: random streams; the layer draws its parameters from "params".
    Attributes:
      edition_bits: bits of the kernel in the network's quantized edition (docs/spec.md, section 5).
    """

    edition_bits = 8

    def __init__(
        self,
        inputs: int,
        features: int,
        size: int,
        stride: int = 1,
        *,
        padding: int | Literal["SAME"] | None = None,
        groups: int = 1,
        bias: bool = False,
        weight_bits: int | None = None,
        initializer: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride, self.groups = stride, groups
        self.padding = size // 2 if padding is None else padding
        fan_in = size * size * inputs // groups
        self.kernel = nnx.Param(drawn(rngs, (size, size, inputs // groups, features), fan_in, initializer), decay="weights")
        self.bias = nnx.Param(uniform(rngs.params(), (features,), fan_in), decay="rest") if bias else None
        self.quantizer = Quantizer(weight_bits, (0, 1)) if weight_bits else None

    def pads(self, x: jax.Array) -> tuple[tuple[int, int], ...]:
        """Padding ((top, bottom), (left, right)) in pixels for a map [N,H,W,C]."""
        return border(x.shape[1:3], self.kernel.shape[0], self.stride, self.padding)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves a map [N,H,W,inputs] to [N,H',W',features], in the type of x."""
        return self.product(x, self.kernel[...] if self.quantizer is None else self.quantizer.kernel(self.kernel[...]))

    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolves x, as __call__ does, with this kernel in place of the layer's own."""
        kernel, pads = kernel.astype(x.dtype), self.pads(x)
        y = plain(x, kernel, self.stride, pads=pads) if self.groups == 1 else grouped_convolution(x, kernel, self.stride, self.groups, pads)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Linear(nnx.Module):
    """y = x W + b with PyTorch's initialization. W is [inputs, features], b is [features], or there is none.

    Args:
      inputs: input channels.
      features: output channels.
      decay: weight-decay group of W: "weights" for a 1x1 convolution, "rest" for a classifier. See the module's docstring.
      bits: bits of quantized W and x; None means float. A classifier's quantizer clips at +-25, that of a 1x1 convolution at +-1000.
      edition_bits: see Conv. A gate's layers get 4.
      bias: whether the layer has b.
      initializer: draws W, see Conv.
      rngs: random streams; the layer draws its parameters from "params".
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        *,
        decay: str = "rest",
        bits: int | None = None,
        edition_bits: int = 8,
        bias: bool = True,
        initializer: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.edition_bits = edition_bits
        self.kernel = nnx.Param(drawn(rngs, (inputs, features), inputs, initializer), decay=decay)
        self.bias = nnx.Param(uniform(rngs.params(), (features,), inputs), decay="rest") if bias else None
        limit = CLASSIFIER_CLIP if decay == "rest" else CLIP
        self.quantizer = Quantizer(bits, (0,), limit=limit, unused_scale=decay == "rest") if bits else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., inputs] to [..., features], in the type of x."""
        kernel = self.kernel[...]
        if self.quantizer is not None:
            x, kernel = self.quantizer.input(x), self.quantizer.kernel(kernel)
        return self.product(x, kernel)

    def product(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Maps x, as __call__ does, with this kernel in place of the layer's own."""
        y = jnp.matmul(x, kernel.astype(x.dtype))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Gate(nnx.Module):
    """Squeeze-and-excitation on channel means: gate(m) = sigmoid(W2 relu(W1 m + b1) + b2), with W1: C -> C/8 and W2: C/8 -> C.

    Args:
      features: channels C, at least 8.
      bits: see Linear.
    Raises:
      UserError: fewer than 8 channels.
    """

    def __init__(self, features: int, *, bits: int | None = None, rngs: nnx.Rngs) -> None:
        if features < 8:
            raise UserError(f"a gate needs at least 8 channels, got {features}; choose widths of 8 and more")
        self.reduce = Linear(features, features // 8, decay="weights", bits=bits, edition_bits=4, rngs=rngs)
        self.expand = Linear(features // 8, features, decay="weights", bits=bits, edition_bits=4, rngs=rngs)

    def __call__(self, mean: jax.Array) -> jax.Array:
        """Maps channel means [N,C] to factors in (0, 1), [N,C]."""
        return jax.nn.sigmoid(self.expand(jax.nn.relu(self.reduce(mean))))


def channel_sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums x [N,H,W,C] and its squares over height and width, in at least float32: ([N,C], [N,C])."""
    x = x.astype(accumulation_dtype(x.dtype))
    return x.sum((1, 2)), jnp.square(x).sum((1, 2))


def channel_means(x: jax.Array) -> jax.Array:
    """Averages x [N,H,W,C] over height and width, in at least float32: [N,C]."""
    return x.astype(accumulation_dtype(x.dtype)).mean((1, 2))


def spatial(per_image: jax.Array, dtype: Any) -> jax.Array:
    """Reshapes [N,C] to [N,1,1,C] in `dtype`, for broadcasting over a map."""
    return per_image.astype(dtype)[:, None, None, :]
