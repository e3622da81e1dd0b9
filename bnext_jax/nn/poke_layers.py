"""The layers of PokeBNN (Zhang et al. 2021, arXiv 2112.00133): 8-bit and 4-bit layers, squeeze-and-excitation, DPReLU, shortcuts.

AQT, the library in which PokeBNN was published, quantizes the input of a layer with one bound per channel. It finds the bounds in training
(calibration), then keeps them.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from bnext_jax.nn.aqt import UNSET, AqtQuantizer, weight_bound
from bnext_jax.nn.batch_norm import GroupStatistics
from bnext_jax.nn.convolution import border
from bnext_jax.nn.kbit import KernelQuantizer
from bnext_jax.nn.layers import PRELU_SLOPE, Conv, Linear
from bnext_jax.nn.variables import TrainingStatistic

SQUEEZE = 8  # input channels of squeeze-and-excitation for each channel between its layers
RATE = 0.1  # share of a batch in the running means of maxima and minima
LECUN = jax.nn.initializers.lecun_normal()


class Phases(NamedTuple):
    """The phases of a training, which a network passes to its layers. Each one is a boolean scalar.

    Attributes:
      bounded: whether a training step sets the bounds that are not set yet.
      quantized: whether layers quantize their weights.
    """

    bounded: jax.Array | bool = True
    quantized: jax.Array | bool = True


ALL = Phases()


class CalibratedQuantizer(KernelQuantizer, GroupStatistics):
    """AQT's quantizer of one layer: of its kernel, and of its input with a bound per channel (module aqt has the formulas).

    In training, maximum += 0.1 (value - maximum) and minimum likewise, both from 0. `value` is the largest or smallest input of the channel
    over the examples of a group and their positions, averaged over the groups. Inputs that are exactly 0 are left out. A group in which
    nothing is left, or where the value is not finite, changes nothing.

    The bounds start at -1, which means that the input passes unchanged. In the first training step in which Phases.bounded is on, they
    become max(abs(maximum), abs(minimum)), with that step's batch already in it. Then they stay. (If that step computes its batch in
    pieces, each piece uses its own bounds, and the layer keeps the mean of them.)

    Args:
      inputs: channels of the input.
      bits: bits of a kernel value and of an input value.
      axes: all axes of the kernel but the last.
      signed: whether inputs may be negative.
    """

    def __init__(self, inputs: int, bits: int, axes: tuple[int, ...], *, signed: bool = True) -> None:
        GroupStatistics.__init__(self)
        self.bits, self.axes = bits, axes
        self.kernel_codes, self.input_codes = AqtQuantizer(bits), AqtQuantizer(bits, signed)
        self.maximum, self.minimum = TrainingStatistic(jnp.zeros((inputs,))), TrainingStatistic(jnp.zeros((inputs,)))
        self.bounds = nnx.BatchStat(jnp.full((inputs,), UNSET, float))

    def quantized(self, kernel: jax.Array) -> jax.Array:
        """Quantizes a kernel [..., O] with the bound max abs(kernel) of each output channel."""
        return self.kernel_codes.weights(kernel)

    def coded(self, kernel: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See KernelQuantizer. AQT's codes are signed; the lowest one becomes 0."""
        kernel = kernel.astype(jnp.float32)
        bound, lowest = weight_bound(kernel), 2 ** (self.bits - 1) - 1
        step = 1 / np.asarray(self.kernel_codes.scale(bound), np.float64)
        codes = np.asarray(self.kernel_codes.codes(kernel, bound)) + lowest
        return codes, (-lowest * step).astype(np.float32), step.astype(np.float32)

    def input(self, x: jax.Array, phases: Phases) -> jax.Array:
        """Quantizes an input [N,...,C], and in training follows its extremes. The shape and type of x."""
        if not self.use_running_average:
            self._follow(x, phases.bounded)
        return self.input_codes.input(x, self.bounds[...])

    def _follow(self, x, bounded):
        x, channels = lax.stop_gradient(x).astype(self.bounds.dtype), x.shape[-1]
        group, positions = self.group(x.shape[0]), tuple(range(1, x.ndim - 1))
        for running, extreme, nothing in ((self.maximum, jnp.max, -jnp.inf), (self.minimum, jnp.min, jnp.inf)):
            each = extreme(jnp.where(x == 0, nothing, x), axis=positions)  # of one example; see BatchNorm for this order
            value = extreme(each.reshape(-1, group, channels), axis=1)
            change = jnp.where(jnp.isfinite(value), value - running[...], 0).mean(0)
            running[...] = running[...] + RATE * change
        found = jnp.maximum(jnp.abs(self.maximum[...]), jnp.abs(self.minimum[...]))
        self.bounds[...] = jnp.where(bounded & (self.bounds[...] == UNSET).all(), found, self.bounds[...])


def _weights(layer, phases):
    kernel = layer.kernel[...]
    return jnp.where(phases.quantized, layer.quantizer.kernel(kernel), kernel)


class CalibratedConv(Conv):
    """A convolution with quantized weights and a quantized input, without bias. Padded pixels are 0.

    Args:
      inputs: input channels.
      features: output channels.
      size: kernel side.
      stride: positive integer, in pixels.
      bits: bits of a weight and of an input value.
      padding: see Conv.
      groups: see Conv.
      rngs: random streams; the layer draws its kernel from "params".
    """

    quantizer: CalibratedQuantizer  # type: ignore[assignment]  # in place of Conv's

    def __init__(
        self,
        inputs: int,
        features: int,
        size: int,
        stride: int = 1,
        *,
        bits: int = 8,
        padding: int | Literal["SAME"] = "SAME",
        groups: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(inputs, features, size, stride, padding=padding, groups=groups, initializer=LECUN, rngs=rngs)
        self.edition_bits = bits
        self.quantizer = nnx.data(CalibratedQuantizer(inputs, bits, (0, 1, 2)))

    def __call__(self, x: jax.Array, phases: Phases = ALL) -> jax.Array:
        """Convolves a map [N,H,W,inputs] to [N,H',W',features], in the type of x."""
        return self.product(self.quantizer.input(x, phases), _weights(self, phases))


class CalibratedLinear(Linear):
    """y = x W + b with quantized W and x. b starts at 0.

    Args:
      inputs: input channels.
      features: output channels.
      bits: bits of a weight and of an input value.
      signed: whether inputs may be negative.
      rngs: random streams; the layer draws W from "params".
    """

    quantizer: CalibratedQuantizer  # type: ignore[assignment]  # in place of Linear's

    def __init__(self, inputs: int, features: int, *, bits: int, signed: bool = True, rngs: nnx.Rngs) -> None:
        super().__init__(inputs, features, decay="weights", edition_bits=bits, initializer=LECUN, rngs=rngs)
        self.bias.set_value(jnp.zeros((features,)))  # type: ignore[union-attr]  # Linear has made one
        self.quantizer = nnx.data(CalibratedQuantizer(inputs, bits, (0,), signed=signed))

    def __call__(self, x: jax.Array, phases: Phases = ALL) -> jax.Array:
        """Maps [N,inputs] to [N,features], in the type of x."""
        return self.product(self.quantizer.input(x, phases), _weights(self, phases))


class Excitation(nnx.Module):
    """Squeeze-and-excitation of 4 bits: min(max(W2 relu(W1 m + b1) + b2 + 3, 0), 6) / 6, with W1: C -> C/8 and W2: C/8 -> features."""

    def __init__(self, inputs: int, features: int, *, rngs: nnx.Rngs) -> None:
        self.reduce = CalibratedLinear(inputs, inputs // SQUEEZE, bits=4, rngs=rngs)
        self.expand = CalibratedLinear(inputs // SQUEEZE, features, bits=4, signed=False, rngs=rngs)

    def __call__(self, mean: jax.Array, phases: Phases) -> jax.Array:
        """Maps channel means [N,C] to factors from 0 to 1, [N,features]."""
        return jnp.clip(self.expand(jax.nn.relu(self.reduce(mean, phases)), phases) + 3, 0, 6) / 6


class DPReLU(nnx.Module):
    """y = slope t - bias_y with t = x - bias_x; slope is pos_slope where t >= 0, else neg_slope. All four are one number per channel."""

    def __init__(self, features: int) -> None:
        self.bias_x, self.bias_y = (nnx.Param(jnp.zeros((features,)), decay="rest") for _ in range(2))
        self.neg_slope = nnx.Param(jnp.full((features,), PRELU_SLOPE, float), decay="rest")
        self.pos_slope = nnx.Param(jnp.ones((features,)), decay="rest")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to [..., C]. The result has the shape and type of x."""
        bias_x, bias_y, neg, pos = (v[...].astype(x.dtype) for v in (self.bias_x, self.bias_y, self.neg_slope, self.pos_slope))
        t = x - bias_x
        return jnp.where(t >= 0, pos, neg) * t - bias_y


def fitted(x: jax.Array, shape: Sequence[int], repeated: bool = False) -> jax.Array:
    """Fits a shortcut to the map that it is added to. First the channels, then the size of the map.

    Args:
      x: [N,H,W,C].
      shape: [N,H',W',C'], of the map.
      repeated: how missing channels are made. True = copies of all channels (C must divide C'); False = channels of zeros.
    Returns:
      `shape`, in the type of x. With C > C' each channel is the mean of C // C' neighbours; channels beyond C' (C // C') are left out.
      A larger map is average-pooled, 3x3 with stride 2; the padded zeros count.
    """
    inputs, features = x.shape[-1], shape[-1]
    if inputs > features:
        run = inputs // features
        x = x[..., : run * features].reshape(*x.shape[:-1], features, run).mean(-1)
    elif repeated:
        x = jnp.tile(x, features // inputs)
    else:
        x = jnp.pad(x, [(0, 0)] * 3 + [(0, features - inputs)])
    if x.shape[1:3] == tuple(shape[1:3]):
        return x
    zero: Any = np.zeros((), x.dtype)
    pads = ((0, 0), *border(x.shape[1:3], 3, 2, "SAME"), (0, 0))
    return lax.reduce_window(x, zero, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), pads) / 9
