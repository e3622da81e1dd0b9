"""The units and the block of BNext (paper, section 3): info-recoupling, ELM attention, binary feed-forward.

All units share one form. With y = prelu_2(batch_norm_1(binary_conv(sign(x + shift)))), z = y (feed-forward) or
y * residual (ELM attention), per-image gate factors g and batch_norm_2 linear in its input,

    out = batch_norm_2(g * z) + residual = z * (g * a) + b + residual

where a and b follow from the per-image sums of z alone: the gated map is never written to memory. The gate sees only
the channel means of scale * x' + (1 - scale) * y, so that mixed map is never formed either. Neither are y and z: epilogue
takes both the sums and `out` from the convolution's output. And a feed-forward unit knows the channel means of `out`
without reading it, so units hand means on.
"""

import jax.numpy as jnp
from flax import nnx

from bnext_jax.nn import epilogue
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.layers import BatchNorm, Buffer, Conv, Gate, PReLU, accumulation_dtype, average_pool, channel_means, channel_sums
from bnext_jax.nn.quantizers import AnnealedSign, SteSign

SCALE_AT_FIRST = 0.5
INPUT_QUANTIZER = SteSign(clip_value=1.5)
KERNEL_QUANTIZER = AnnealedSign()
KERNEL_QUANTIZER_18 = AnnealedSign(exact_below=1e-5)  # BNext-18's


class BinaryUnit(nnx.Module):
    """What ELM attention and the feed-forward unit share; see the module's text.

    Args:
      inputs, features: channels in and out (they differ only in BNext-18's attention unit).
      size: kernel side, 1 or 3. stride: 1 or 2; with 2 height and width must be even.
      info_recoupling: False removes `scale` and the gate (r = y).
      norm_kind, prelu_kind: nnx.Param, or Buffer where the unit never uses its second norm, its first PReLU.
      kernel_quantizer: of the convolution. gate_bits: of the quantized gate, None = float.
    """

    def __init__(
        self, inputs, features, size, stride, *, info_recoupling, norm_kind, prelu_kind, kernel_quantizer, gate_bits=None, rngs
    ):  # fmt: skip
        self.stride = stride
        self.shift = nnx.Param(jnp.zeros((inputs,)), decay="weights")
        self.conv = BinaryConv(
            inputs, features, size, stride, input_quantizer=INPUT_QUANTIZER, kernel_quantizer=kernel_quantizer, rngs=rngs
        )
        self.norm1, self.norm2 = BatchNorm(features), BatchNorm(features, kind=norm_kind)
        self.activation1, self.activation2 = PReLU(inputs, kind=prelu_kind), PReLU(features)
        if info_recoupling:
            self.scale = nnx.Param(jnp.full((features,), SCALE_AT_FIRST), bounds=(0.0, 1.0), decay="weights")
            self.gate = Gate(features, bits=gate_bits, rngs=rngs)
        else:
            self.scale = self.gate = None

    def convolved(self, x, temperature):
        """binary_conv(sign(x + shift)) [N,H',W',C'] and, per image, batch_norm_1's factor and offset and prelu_2's slope, [N,C'] each."""
        exact = accumulation_dtype(x.dtype) if self.norm1.use_running_average else None  # sums of +-1 stay exact in evaluation
        c = self.conv(x, temperature, shift=self.shift[...], dtype=exact)
        vectors = *self.norm1.affine(*channel_sums(c), c.shape[1] * c.shape[2]), self.activation2.slope[...]
        return c, *(jnp.broadcast_to(one, (c.shape[0], c.shape[-1])) for one in vectors)

    def factors(self, mixed_mean, y_mean):
        """Gate factors [N,C] from the channel means [N,C] of the info-recoupling mix's two maps, or ones without it."""
        if self.gate is None:
            return jnp.ones_like(y_mean)
        scale = self.scale[...].astype(y_mean.dtype)
        return self.gate(scale * mixed_mean + (1 - scale) * y_mean)

    def pooled(self, x, activation=lambda x: x):
        """activation(x), average-pooled 2x2 where the unit has stride 2."""
        return average_pool(x, activation) if self.stride == 2 else activation(x)

    def __call__(self, x, temperature):
        """x [N,H,W,C], temperature scalar -> [N,H/stride,W/stride,C']. Raises UserError for odd sizes at stride 2."""
        return self.step(x, channel_means(x), temperature)[0]

    def joined(self, x, temperature, mixed_mean, residual, attends):
        """What batch_norm_2(gate(mix) * z) + residual, z = y * residual (attends) or y, is made of; see epilogue.

        x: the unit's input. mixed_mean: [N,C'], of what the gate mixes with y. residual: [N,H',W',C'].
        Returns ((c, a, b, slope, factor) for epilogue.output, batch_norm_2's offset [N,C'], channel means of all but the residual [N,C']).
        """
        y = self.convolved(x, temperature)
        positions = y[0].shape[1] * y[0].shape[2]
        of_y, of_z, of_squares = epilogue.sums(*y, residual if attends else None)
        factor = self.factors(mixed_mean, of_y / positions)
        by, offset = self.norm2.affine(factor * of_z, jnp.square(factor) * of_squares, positions)
        by, offset = factor * by, jnp.broadcast_to(offset, factor.shape)
        return (*y, by), offset, by * (of_z / positions) + offset


class BinaryFeedForward(BinaryUnit):
    """out = batch_norm_2(gate(mix) * y) + x', x' = pool(x); without info-recoupling out = y + x' (norm2 is skipped)."""

    def __init__(self, features, size, stride=1, *, info_recoupling=True, kernel_quantizer=KERNEL_QUANTIZER, gate_bits=None, rngs):
        norm_kind = nnx.Param if info_recoupling else Buffer
        super().__init__(
            features, features, size, stride, info_recoupling=info_recoupling, norm_kind=norm_kind,
            prelu_kind=Buffer, kernel_quantizer=kernel_quantizer, gate_bits=gate_bits, rngs=rngs,
        )  # fmt: skip

    def parts(self, x, residual, mean, temperature):
        """For side_by_side: (epilogue.output's, batch_norm_2's offset [N,C], the output's channel means [N,C]); pooling keeps means."""
        if self.gate is not None:
            unit, offset, added = self.joined(x, temperature, mean, residual, attends=False)
            return unit, offset, mean + added
        y = self.convolved(x, temperature)
        return (*y, jnp.ones_like(y[-1])), jnp.zeros_like(y[-1]), mean + epilogue.sums(*y)[0] / (y[0].shape[1] * y[0].shape[2])

    def step(self, x, mean, temperature):
        """The unit with the channel means [N,C] of its input, in and out: ([N,H/stride,W/stride,C], [N,C])."""
        return side_by_side([self], x, mean, temperature)


def side_by_side(units, x, mean, temperature):
    """Feed-forward units of one input, concatenated on channels: ([N,H/stride,W/stride,units*C], its channel means [N,units*C])."""
    residual = units[0].pooled(x)
    units, *vectors = zip(*(unit.parts(x, residual, mean, temperature) for unit in units), strict=True)
    offset, mean = (jnp.concatenate(part, axis=-1) for part in vectors)
    return epilogue.add_offset(epilogue.output(False, units, residual), offset), mean


class ElmAttention(BinaryUnit):
    """Element-wise attention, 3x3: res = pool(prelu_1(x)); out = batch_norm_2(gate(mix) * y * res) + res."""

    def __init__(self, features, stride=1, *, info_recoupling=True, gate_bits=None, rngs):
        super().__init__(
            features, features, 3, stride, info_recoupling=info_recoupling, norm_kind=nnx.Param,
            prelu_kind=nnx.Param, kernel_quantizer=KERNEL_QUANTIZER, gate_bits=gate_bits, rngs=rngs,
        )  # fmt: skip

    def step(self, x, mean, temperature):
        """The unit with the channel means [N,C] of its input, in and out: ([N,H/stride,W/stride,C], [N,C])."""
        return self.attended(x, mean, self.pooled(x, self.activation1), temperature)

    def attended(self, x, mixed_mean, residual, temperature):
        """(output, its channel means) for a residual [N,H',W',C'], the gate mixing a map of channel means mixed_mean [N,C'] with y."""
        unit, offset, _ = self.joined(x, temperature, mixed_mean, residual, attends=True)
        out = epilogue.add_offset(epilogue.output(True, (unit,), residual), offset)
        return out, channel_means(out)


class Shortcut18(nnx.Module):
    """BNext-18's shortcut where the shape changes: average pool 2x2, real 1x1 convolution, batch norm."""

    def __init__(self, inputs, features, *, rngs):
        self.conv = Conv(inputs, features, 1, rngs=rngs)
        self.norm = BatchNorm(features)

    def __call__(self, x):
        """[N,H,W,C] -> [N,H/2,W/2,C']. Raises UserError for odd sizes."""
        return self.norm(self.conv(average_pool(x)))


class ElmAttention18(ElmAttention):
    """BNext-18's attention unit: it mixes its residual, not x, and carries the stride and the widening."""

    def __init__(self, inputs, features, stride=1, *, rngs):
        super(ElmAttention, self).__init__(
            inputs, features, 3, stride, info_recoupling=True, norm_kind=nnx.Param,
            prelu_kind=nnx.Param, kernel_quantizer=KERNEL_QUANTIZER_18, rngs=rngs,
        )  # fmt: skip
        changes = stride != 1 or inputs != features
        self.shortcut = Shortcut18(inputs, features, rngs=rngs) if changes else None

    def step(self, x, mean, temperature):
        """As ElmAttention's, but C' channels come out and the means of x are not used."""
        residual = self.activation1(x)
        if self.shortcut is not None:
            residual = self.shortcut(residual)
        return self.attended(x, channel_means(residual), residual, temperature)


class BasicBlock(nnx.Module):
    """A 3x3 unit, then one 1x1 feed-forward unit, or two side by side, concatenated on channels, where the width doubles.

    Args:
      inputs, features: channels in and out; features is inputs or 2 * inputs.
      stride: 1 or 2, carried by the 3x3 unit. elm_attention: whether the 3x3 unit is ELM attention.
      **options: info_recoupling and gate_bits, see BinaryUnit.
    """

    def __init__(self, inputs, features, stride, *, elm_attention, rngs, **options):
        if elm_attention:
            self.unit3x3 = ElmAttention(inputs, stride, rngs=rngs, **options)
        else:
            self.unit3x3 = BinaryFeedForward(inputs, 3, stride, rngs=rngs, **options)
        self.units1x1 = nnx.List(BinaryFeedForward(inputs, 1, rngs=rngs, **options) for _ in range(features // inputs))

    def step(self, x, mean, temperature):
        """The block with the channel means of its input, in and out: ([N,H/stride,W/stride,features], [N,features])."""
        x, mean = self.unit3x3.step(x, mean, temperature)
        return side_by_side(list(self.units1x1), x, mean, temperature)

    def __call__(self, x, temperature):
        """x [N,H,W,inputs], temperature scalar -> [N,H/stride,W/stride,features]."""
        return self.step(x, channel_means(x), temperature)[0]
