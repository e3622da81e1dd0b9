"""The units and the block of BNext: info-recoupling, ELM attention, binary feed-forward (Guo et al. 2022, arXiv 2211.12933, section 3).

All units share one form. Let y = prelu_2(batch_norm_1(binary_conv(sign(x + shift)))). Let z = y in a feed-forward unit and
z = y * residual in ELM attention. Let g be the gate factors of each image. batch_norm_2 is affine in its input, so

    out = batch_norm_2(g * z) + residual = z * (g * a) + b + residual

a and b follow from the gate factors and the per-image sums of z and z^2, so the code never writes the gated map to memory. It never
forms the mixed map scale * x' + (1 - scale) * y either, because the gate needs only its channel means. It does not form y or z:
nn/epilogue.py computes the sums and `out` from the output of the convolution. A feed-forward unit also computes the channel means of
`out` without reading `out`. So each unit passes channel means to the next unit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.nn import epilogue
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.layers import Gate, PReLU, accumulation_dtype, average_pool, channel_means, channel_sums
from bnext_jax.nn.quantizers import SteSign, WeightQuantizer
from bnext_jax.nn.shortcut import PooledShortcut
from bnext_jax.nn.variables import Buffer
from bnext_jax.nn.weight_quantizers import AnnealedSign

SCALE_AT_FIRST = 0.5
INPUT_QUANTIZER = SteSign(clip_value=1.5)
KERNEL_QUANTIZER = AnnealedSign()
KERNEL_QUANTIZER_18 = AnnealedSign(exact_below=1e-5)  # for BNext-18


class BinaryUnit(nnx.Module):
    """The common part of ELM attention and the feed-forward unit. See the module's docstring for the formulas.

    Args:
      inputs: input channels.
      features: output channels. They differ from `inputs` only in BNext-18's attention unit.
      size: kernel side, 1 or 3.
      stride: 1 or 2. With stride 2, height and width must be even.
      info_recoupling: False removes `scale` and the gate, so r = y.
      norm_kind: type of batch_norm_2's parameters: nnx.Param, or Buffer in a unit that never uses batch_norm_2.
      prelu_kind: type of prelu_1's slope: nnx.Param, or Buffer in a unit that never uses prelu_1.
      input_quantizer: activation quantizer of the convolution.
      kernel_quantizer: weight quantizer of the convolution.
      gate_bits: bits of a quantized gate, 4 or 8; None means a float gate.
      rngs: random streams; the unit draws its parameters from "params".
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        size: int,
        stride: int,
        *,
        info_recoupling: bool,
        norm_kind: type[nnx.Variable],
        prelu_kind: type[nnx.Variable],
        input_quantizer: SteSign = INPUT_QUANTIZER,
        kernel_quantizer: WeightQuantizer,
        gate_bits: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = stride
        self.shift = nnx.Param(jnp.zeros((inputs,)), decay="weights")
        self.conv = BinaryConv(
            inputs, features, size, stride, input_quantizer=input_quantizer, kernel_quantizer=kernel_quantizer, rngs=rngs
        )
        self.norm1, self.norm2 = BatchNorm(features), BatchNorm(features, kind=norm_kind)
        self.activation1, self.activation2 = PReLU(inputs, kind=prelu_kind), PReLU(features)
        if info_recoupling:
            self.scale: nnx.Param | None = nnx.Param(jnp.full((features,), SCALE_AT_FIRST, float), bounds=(0.0, 1.0), decay="weights")
            self.gate: Gate | None = Gate(features, bits=gate_bits, rngs=rngs)
        else:
            self.scale = self.gate = None

    def convolved(self, x: jax.Array, temperature: jax.Array | float) -> tuple[jax.Array, ...]:
        """Convolves the binarized input x [N,H,W,C], and returns the values that turn the result into y.

        Returns:
          (c, a, b, slope). c is binary_conv(sign(x + shift)), [N,H',W',C']. a and b are the factor and the offset of batch_norm_1,
          and slope is that of prelu_2, [N,C'] each.
        """
        exact = accumulation_dtype(x.dtype) if self.norm1.use_running_average else None  # sums of +-1 stay exact in evaluation
        c = self.conv(x, temperature, shift=self.shift[...], dtype=exact)
        vectors = *self.norm1.affine(*channel_sums(c), c.shape[1] * c.shape[2]), self.activation2.slope[...]
        return c, *(jnp.broadcast_to(one, (c.shape[0], c.shape[-1])) for one in vectors)

    def factors(self, mixed_mean: jax.Array, y_mean: jax.Array) -> jax.Array:
        """Gate factors [N,C']: gate(scale * mixed_mean + (1 - scale) * y_mean). Ones without info-recoupling.

        `mixed_mean` [N,C'] are the channel means of the map that the gate mixes with y. `y_mean` [N,C'] are those of y.
        """
        if self.gate is None or self.scale is None:
            return jnp.ones_like(y_mean)
        scale = self.scale[...].astype(y_mean.dtype)
        return self.gate(scale * mixed_mean + (1 - scale) * y_mean)

    def pooled(self, x: jax.Array, activation: Callable[[jax.Array], jax.Array] = lambda x: x) -> jax.Array:
        """Applies an elementwise activation to x [N,H,W,C], then average-pools 2x2 if the unit has stride 2."""
        return average_pool(x, activation) if self.stride == 2 else activation(x)

    def __call__(self, x: jax.Array, temperature: jax.Array | float) -> jax.Array:
        """Maps x [N,H,W,C] to [N,H/stride,W/stride,C'], at scalar temperature T.

        Raises:
          UserError: the unit has stride 2, and the height or the width is odd.
        """
        return self.step(x, channel_means(x), temperature)[0]  # type: ignore[attr-defined]  # each subclass has a step

    def joined(
        self, x: jax.Array, temperature: jax.Array | float, mixed_mean: jax.Array, residual: jax.Array, attends: bool
    ) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
        """Computes the parts of out = batch_norm_2(gate(mix) * z) + residual for nn/epilogue.py.

        Args:
          x: the unit's input, [N,H,W,C].
          temperature: scalar T of the binary weights.
          mixed_mean: channel means of the map that the gate mixes with y, [N,C'].
          residual: [N,H',W',C'].
          attends: True for z = y * residual, False for z = y.
        Returns:
          (parts, offset, mean). parts is (c, a, b, slope, factor), one entry of `units` for epilogue.output. offset is that of
          batch_norm_2, [N,C']. mean holds the channel means of batch_norm_2's output, so without the residual, [N,C'].
        """
        y = self.convolved(x, temperature)
        positions = y[0].shape[1] * y[0].shape[2]
        of_y, of_z, of_squares = epilogue.sums(*y, residual if attends else None)
        factor = self.factors(mixed_mean, of_y / positions)
        by, offset = self.norm2.affine(factor * of_z, jnp.square(factor) * of_squares, positions)
        by, offset = factor * by, jnp.broadcast_to(offset, factor.shape)
        return (*y, by), offset, by * (of_z / positions) + offset


class BinaryFeedForward(BinaryUnit):
    """The binary feed-forward unit: out = batch_norm_2(gate(mix) * y) + x', with x' = pool(x).

    Without info-recoupling, out = y + x': the unit skips batch_norm_2. `features` are the channels in and out.
    See BinaryUnit for the arguments.
    """

    def __init__(
        self,
        features: int,
        size: int,
        stride: int = 1,
        *,
        info_recoupling: bool = True,
        input_quantizer: SteSign = INPUT_QUANTIZER,
        kernel_quantizer: WeightQuantizer = KERNEL_QUANTIZER,
        gate_bits: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        norm_kind = nnx.Param if info_recoupling else Buffer
        super().__init__(
            features, features, size, stride, info_recoupling=info_recoupling, norm_kind=norm_kind,
            prelu_kind=Buffer, input_quantizer=input_quantizer, kernel_quantizer=kernel_quantizer, gate_bits=gate_bits, rngs=rngs,
        )  # fmt: skip

    def parts(
        self, x: jax.Array, residual: jax.Array, mean: jax.Array, temperature: jax.Array | float
    ) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
        """Computes the parts of the unit's output for `side_by_side`.

        Args:
          x: the unit's input, [N,H,W,C].
          residual: pool(x), [N,H',W',C].
          mean: channel means of x, [N,C]. They are those of the residual too, because pooling keeps means.
          temperature: scalar T of the binary weights.
        Returns:
          (parts, offset, mean): see BinaryUnit.joined for parts and offset. mean holds the channel means of the unit's output, [N,C].
        """
        if self.gate is not None:
            unit, offset, added = self.joined(x, temperature, mean, residual, attends=False)
            return unit, offset, mean + added
        y = self.convolved(x, temperature)
        return (*y, jnp.ones_like(y[-1])), jnp.zeros_like(y[-1]), mean + epilogue.sums(*y)[0] / (y[0].shape[1] * y[0].shape[2])

    def step(self, x: jax.Array, mean: jax.Array, temperature: jax.Array | float) -> tuple[jax.Array, jax.Array]:
        """Computes the unit from its input and the channel means of its input. See `side_by_side`."""
        return side_by_side([self], x, mean, temperature)


def side_by_side(
    units: Sequence[BinaryFeedForward], x: jax.Array, mean: jax.Array, temperature: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Applies feed-forward units of equal stride to one input x [N,H,W,C], and concatenates their outputs on channels.

    `mean` [N,C] are the channel means of x.

    Returns:
      (output [N,H/stride,W/stride,len(units)*C], its channel means [N,len(units)*C]).
    """
    residual = units[0].pooled(x)
    units, *vectors = zip(*(unit.parts(x, residual, mean, temperature) for unit in units), strict=True)
    offset, mean = (jnp.concatenate(part, axis=-1) for part in vectors)
    return epilogue.add_offset(epilogue.output(False, units, residual), offset), mean


class ElmAttention(BinaryUnit):
    """The ELM (element-wise) attention unit, 3x3: out = batch_norm_2(gate(mix) * y * res) + res, with res = pool(prelu_1(x)).

    `features` are the channels in and out. See BinaryUnit for the arguments.
    """

    def __init__(
        self,
        features: int,
        stride: int = 1,
        *,
        info_recoupling: bool = True,
        input_quantizer: SteSign = INPUT_QUANTIZER,
        gate_bits: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            features, features, 3, stride, info_recoupling=info_recoupling, norm_kind=nnx.Param,
            prelu_kind=nnx.Param, input_quantizer=input_quantizer, kernel_quantizer=KERNEL_QUANTIZER, gate_bits=gate_bits, rngs=rngs,
        )  # fmt: skip

    def step(self, x: jax.Array, mean: jax.Array, temperature: jax.Array | float) -> tuple[jax.Array, jax.Array]:
        """Computes the unit from its input x [N,H,W,C] and the channel means [N,C] of x.

        Returns:
          (output [N,H/stride,W/stride,C], its channel means [N,C]).
        """
        return self.attended(x, mean, self.pooled(x, self.activation1), temperature)

    def attended(
        self, x: jax.Array, mixed_mean: jax.Array, residual: jax.Array, temperature: jax.Array | float
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the unit for a given residual. See `joined` for the arguments.

        Returns:
          (output [N,H',W',C'], its channel means [N,C']).
        """
        unit, offset, _ = self.joined(x, temperature, mixed_mean, residual, attends=True)
        out = epilogue.add_offset(epilogue.output(True, (unit,), residual), offset)
        return out, channel_means(out)


class ElmAttention18(ElmAttention):
    """BNext-18's attention unit. Its gate mixes the residual (not x) with y. The unit applies the block's stride and widening.

    The stride must be 2 where `features` differs from `inputs`. See BinaryUnit for the arguments.
    """

    def __init__(self, inputs: int, features: int, stride: int = 1, *, rngs: nnx.Rngs) -> None:
        super(ElmAttention, self).__init__(
            inputs, features, 3, stride, info_recoupling=True, norm_kind=nnx.Param,
            prelu_kind=nnx.Param, kernel_quantizer=KERNEL_QUANTIZER_18, rngs=rngs,
        )  # fmt: skip
        changes = stride != 1 or inputs != features
        self.shortcut = PooledShortcut(inputs, features, rngs=rngs) if changes else None

    def step(self, x: jax.Array, mean: jax.Array, temperature: jax.Array | float) -> tuple[jax.Array, jax.Array]:
        """Does what ElmAttention.step does, with C' output channels. It ignores `mean`, the channel means of x."""
        residual = self.activation1(x)
        if self.shortcut is not None:
            residual = self.shortcut(residual)
        return self.attended(x, channel_means(residual), residual, temperature)


class BasicBlock(nnx.Module):
    """A block of BNext: a 3x3 unit, then one 1x1 feed-forward unit.

    Where the width doubles, two 1x1 units stand side by side. The block concatenates their outputs on channels.

    Args:
      inputs: input channels.
      features: output channels, inputs or 2 * inputs.
      stride: stride of the 3x3 unit, 1 or 2.
      elm_attention: True makes the 3x3 unit ELM attention, False a feed-forward unit.
      rngs: see BinaryUnit.
      **options: info_recoupling, input_quantizer and gate_bits, see BinaryUnit.
    """

    def __init__(self, inputs: int, features: int, stride: int, *, elm_attention: bool, rngs: nnx.Rngs, **options: Any) -> None:
        if elm_attention:
            self.unit3x3: ElmAttention | BinaryFeedForward = ElmAttention(inputs, stride, rngs=rngs, **options)
        else:
            self.unit3x3 = BinaryFeedForward(inputs, 3, stride, rngs=rngs, **options)
        self.units1x1 = nnx.List(BinaryFeedForward(inputs, 1, rngs=rngs, **options) for _ in range(features // inputs))

    def step(self, x: jax.Array, mean: jax.Array, temperature: jax.Array | float) -> tuple[jax.Array, jax.Array]:
        """Computes the block from its input x [N,H,W,inputs] and the channel means [N,inputs] of x.

        Returns:
          (output [N,H/stride,W/stride,features], its channel means [N,features]).
        """
        x, mean = self.unit3x3.step(x, mean, temperature)
        return side_by_side(list(self.units1x1), x, mean, temperature)

    def __call__(self, x: jax.Array, temperature: jax.Array | float) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,H/stride,W/stride,features], at scalar temperature T."""
        return self.step(x, channel_means(x), temperature)[0]
