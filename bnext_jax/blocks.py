"""The units and the block of BNext (paper, section 3): info-recoupling, ELM attention, binary feed-forward.

All units share one form. With y = prelu_2(batch_norm_1(binary_conv(sign(x + shift)))), z = y (feed-forward) or
y * residual (ELM attention), per-image gate factors g and batch_norm_2 linear in its input,

    out = batch_norm_2(g * z) + residual = z * (g * a) + b + residual

where a and b follow from the per-image sums of z alone: the gated map is never written to memory. The gate sees only
the channel means of scale * x' + (1 - scale) * y, so that mixed map is never formed either.
"""

import jax.numpy as jnp
from flax import nnx

from bnext_jax.binary import SIGN_BELOW, SIGN_BELOW_18, BinaryConv, hard_sign
from bnext_jax.layers import BatchNorm, Buffer, Conv, Gate, PReLU, average_pool, channel_sums, spatial, wide

SCALE_AT_FIRST = 0.5


class BinaryUnit(nnx.Module):
    """What ELM attention and the feed-forward unit share; see the module's text.

    Args:
      inputs, features: channels in and out (they differ only in BNext-18's attention unit).
      size: kernel side, 1 or 3. stride: 1 or 2; with 2 height and width must be even.
      info_recoupling: False removes `scale` and the gate (r = y).
      norm_kind, prelu_kind: nnx.Param, or Buffer where the unit never uses its second norm, its first PReLU.
      sign_below: see binarize_weight. gate_bits: of the quantised gate, None = float.
    """

    def __init__(
        self, inputs, features, size, stride, *, info_recoupling, norm_kind, prelu_kind, sign_below, gate_bits=None, rngs
    ):  # fmt: skip
        self.stride = stride
        self.shift = nnx.Param(jnp.zeros((inputs,)), decay="weights")
        self.conv = BinaryConv(inputs, features, size, stride, sign_below=sign_below, rngs=rngs)
        self.norm1, self.norm2 = BatchNorm(features), BatchNorm(features, kind=norm_kind)
        self.activation1, self.activation2 = PReLU(inputs, kind=prelu_kind), PReLU(features)
        if info_recoupling:
            self.scale = nnx.Param(jnp.full((features,), SCALE_AT_FIRST), bounds=(0.0, 1.0), decay="weights")
            self.gate = Gate(features, bits=gate_bits, rngs=rngs)
        else:
            self.scale = self.gate = None

    def processed(self, x, temperature):
        """prelu_2(batch_norm_1(binary_conv(sign(x + shift)))): [N,H,W,C] -> [N,H',W',C'], the type of x."""
        exact = wide(x.dtype) if self.norm1.use_running_average else None  # sums of +-1 stay exact in evaluation
        y = self.conv(hard_sign(x + self.shift[...].astype(x.dtype)), temperature, exact)
        return self.activation2(self.norm1(y).astype(x.dtype))

    def factors(self, mixed, y_total, positions):
        """Gate factors [N,C] from the channel means of the info-recoupling mix, or ones without it.

        mixed: [N,H,W,C], whatever is mixed with y (any size, its mean counts); y_total: [N,C], sums of y over `positions`.
        """
        if self.gate is None:
            return jnp.ones_like(y_total)
        scale = self.scale[...].astype(y_total.dtype)
        mixed_mean = mixed.astype(y_total.dtype).mean((1, 2))
        return self.gate(scale * mixed_mean + (1 - scale) * (y_total / positions))

    def pooled(self, x):
        """x, average-pooled 2x2 where the unit has stride 2."""
        return average_pool(x) if self.stride == 2 else x

    def normalised(self, z, factor, residual):
        """batch_norm_2(factor * z) + residual, from per-image sums of z: [N,H,W,C], factor [N,C] -> [N,H,W,C]."""
        total, total_sq = channel_sums(z)
        a, b = self.norm2.affine(factor * total, jnp.square(factor) * total_sq, z.shape[1] * z.shape[2])
        return z * spatial(factor * a, z.dtype) + spatial(b, z.dtype) + residual


class BinaryFeedForward(BinaryUnit):
    """out = batch_norm_2(gate(mix) * y) + x', x' = pool(x); without info-recoupling out = y + x' (norm2 is skipped)."""

    def __init__(self, features, size, stride=1, *, info_recoupling=True, sign_below=SIGN_BELOW, gate_bits=None, rngs):
        norm_kind = nnx.Param if info_recoupling else Buffer
        super().__init__(
            features, features, size, stride, info_recoupling=info_recoupling, norm_kind=norm_kind,
            prelu_kind=Buffer, sign_below=sign_below, gate_bits=gate_bits, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x, temperature):
        """x [N,H,W,C], temperature scalar -> [N,H/stride,W/stride,C]. Raises UserError for odd sizes at stride 2."""
        residual, y = self.pooled(x), self.processed(x, temperature)
        if self.gate is None:
            return y + residual
        factor = self.factors(x, channel_sums(y)[0], y.shape[1] * y.shape[2])
        return self.normalised(y, factor, residual)


class ElmAttention(BinaryUnit):
    """Element-wise attention, 3x3: res = pool(prelu_1(x)); out = batch_norm_2(gate(mix) * y * res) + res."""

    def __init__(self, features, stride=1, *, info_recoupling=True, gate_bits=None, rngs):
        super().__init__(
            features, features, 3, stride, info_recoupling=info_recoupling, norm_kind=nnx.Param,
            prelu_kind=nnx.Param, sign_below=SIGN_BELOW, gate_bits=gate_bits, rngs=rngs,
        )  # fmt: skip

    def attend(self, y, mixed, residual):
        """y * residual, recoupled with `mixed`, normalised, plus residual."""
        factor = self.factors(mixed, channel_sums(y)[0], y.shape[1] * y.shape[2])
        return self.normalised(y * residual, factor, residual)

    def __call__(self, x, temperature):
        """x [N,H,W,C], temperature scalar -> [N,H/stride,W/stride,C]. Raises UserError for odd sizes at stride 2."""
        residual = self.pooled(self.activation1(x))
        return self.attend(self.processed(x, temperature), x, residual)


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
            prelu_kind=nnx.Param, sign_below=SIGN_BELOW_18, rngs=rngs,
        )  # fmt: skip
        changes = stride != 1 or inputs != features
        self.shortcut = Shortcut18(inputs, features, rngs=rngs) if changes else None

    def __call__(self, x, temperature):
        """x [N,H,W,C], temperature scalar -> [N,H/stride,W/stride,C']. Raises UserError for odd sizes at stride 2."""
        residual = self.activation1(x)
        if self.shortcut is not None:
            residual = self.shortcut(residual)
        return self.attend(self.processed(x, temperature), residual, residual)


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

    def __call__(self, x, temperature):
        """x [N,H,W,inputs], temperature scalar -> [N,H/stride,W/stride,features]."""
        x = self.unit3x3(x, temperature)
        return jnp.concatenate([unit(x, temperature) for unit in self.units1x1], axis=-1)
