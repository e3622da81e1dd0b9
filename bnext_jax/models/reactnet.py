"""ReActNet (Liu et al. 2020, arXiv 2003.03488): ReActNet-18 in the frame of ResNet-18, ReActNet-A in the frame of MobileNet.

Learned shifts stand before the sign (RSign) and around the PReLU (RPReLU), one a channel:

    RSign(x) = sign(x + a)          RPReLU(x) = PReLU(x + b) + c

A block of ReActNet-18:

    y = RPReLU(BN(conv3x3(RSign(x))) + shortcut(x))     shortcut as in Bi-Real Net

A block of ReActNet-A, which keeps or doubles the width:

    o = RPReLU(BN(conv3x3(RSign(x))) + pool(x))         pool: average pool 2x2 where the stride is 2
    y = RPReLU(BN(conv1x1(RSign(o))) + o)               where the width doubles: two convolutions of the same signs, each with its BN and
                                                        its shortcut o, side by side on channels
"""

import dataclasses
import itertools
from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.models.base import TableModel, check_stride, default_stride
from bnext_jax.models.birealnet import BiRealNetConfig, binary_conv
from bnext_jax.models.bnext import WIDTHS, check_widths
from bnext_jax.models.frame18 import Frame18
from bnext_jax.models.stages import Maker, StagedConfig
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.layers import Conv, Linear, PReLU, average_pool, channel_means
from bnext_jax.nn.shortcut import PooledShortcut

WIDTHS_A = WIDTHS["bnext_tiny"]  # BNext-T took over the widths of ReActNet-A


def shift(features: int) -> nnx.Param:
    """A learned shift of each channel, 0 at first."""
    return nnx.Param(jnp.zeros((features,)), decay="weights")


class RPReLU(nnx.Module):
    """y = PReLU(x + before) + after, with one slope and two shifts per channel."""

    def __init__(self, features: int) -> None:
        self.before, self.prelu, self.after = shift(features), PReLU(features), shift(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to [..., C]. The result has the shape and type of x."""
        return self.prelu(x + self.before[...].astype(x.dtype)) + self.after[...].astype(x.dtype)


class BinaryUnit(nnx.Module):
    """BN(conv(RSign(x))), with a size of 1 or 3 and a stride of 1 or 2. `conv` makes the convolution."""

    def __init__(self, inputs: int, features: int, size: int, stride: int = 1, *, conv: Maker, rngs: nnx.Rngs) -> None:
        self.shift = shift(inputs)
        self.conv = conv(inputs, features, size, stride, rngs=rngs)
        self.norm = BatchNorm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']."""
        return self.norm(self.conv(x, shift=self.shift[...]))


class Block18(nnx.Module):
    """A block of ReActNet-18. `conv` makes its binary convolution. See the module for the formula."""

    def __init__(self, inputs: int, features: int, stride: int, *, conv: Maker = binary_conv, rngs: nnx.Rngs) -> None:
        self.unit = BinaryUnit(inputs, features, 3, stride, conv=conv, rngs=rngs)
        self.shortcut = PooledShortcut(inputs, features, rngs=rngs) if stride == 2 else None
        self.activation = RPReLU(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']. Raises UserError for a side that the stride cannot halve."""
        shortcut = x if self.shortcut is None else self.shortcut(x)  # first, because it checks the sides
        return self.activation(self.unit(x) + shortcut)


@dataclasses.dataclass(frozen=True)
class ReActNet18Config(BiRealNetConfig):
    """The arguments of a ReActNet-18, see Frame18Config. A block has one convolution."""


class ReActNet18(Frame18):
    """ReActNet-18: Bi-Real-18 with RSign and RPReLU."""

    def make_block(self, inputs: int, features: int, stride: int, place: tuple[int, int], *, rngs: nnx.Rngs) -> Block18:
        """See Frame18."""
        del place
        return Block18(inputs, features, stride, conv=self.config.staged(binary_conv, initializer=None), rngs=rngs)


class BlockA(nnx.Module):
    """A block of ReActNet-A. The width stays or doubles. `conv` makes its binary convolutions. See the module for the formula."""

    def __init__(self, inputs: int, features: int, stride: int, *, conv: Maker = binary_conv, rngs: nnx.Rngs) -> None:
        self.stride = stride
        self.unit3x3, self.activation1 = BinaryUnit(inputs, inputs, 3, stride, conv=conv, rngs=rngs), RPReLU(inputs)
        self.shift = shift(inputs)
        self.convs = nnx.List(conv(inputs, inputs, 1, rngs=rngs) for _ in range(features // inputs))
        self.norms = nnx.List(BatchNorm(inputs) for _ in range(features // inputs))
        self.activation2 = RPReLU(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']. Raises UserError for a side that the stride cannot halve."""
        shortcut = average_pool(x) if self.stride == 2 else x
        o = self.activation1(self.unit3x3(x) + shortcut)
        halves = [norm(conv(o, shift=self.shift[...])) + o for conv, norm in zip(self.convs, self.norms, strict=True)]
        return self.activation2(jnp.concatenate(halves, axis=-1))


@dataclasses.dataclass(frozen=True)
class ReActNetAConfig(StagedConfig):
    """The arguments of a ReActNet-A. Those of its stages are in StagedConfig.

    Attributes:
      widths: channels of the stem, then of each block. Each equals the previous width or is twice as large.
      stem_stride: 1 or 2, in pixels; None means 2 with 1000 classes, else 1.
    Raises:
      UserError: widths that do not make a ReActNet-A, another stride.
    """

    widths: tuple[int, ...] = WIDTHS_A
    stem_stride: int | None = None

    def check(self) -> None:
        """Raises UserError, see the class."""
        super().check()
        check_widths(self.widths, "ReActNet-A")
        check_stride(self.stem_stride)

    def resolved(self, num_classes: int) -> Self:
        """Fills in the stride of the stem. Returns a new config."""
        return dataclasses.replace(self, stem_stride=self.stem_stride or default_stride(num_classes))


class ReActNetA(TableModel):
    """ReActNet-A: a real 3x3 stem with batch norm, thirteen blocks, a real classifier.

    A block has stride 2 where the width doubles, except the first block.

    Args:
      config: a ReActNetAConfig.
      num_classes: outputs of the classifier.
      rngs: random streams; the network draws its parameters from "params".
    """

    def __init__(self, config: ReActNetAConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.config = config = config.resolved(num_classes)
        stride, conv = config.stem_stride or 1, config.staged(binary_conv, initializer=None)
        self.conv, self.norm = Conv(3, config.widths[0], 3, stride, rngs=rngs), BatchNorm(config.widths[0])
        self.blocks = nnx.List(
            BlockA(inputs, features, 2 if features != inputs and i > 0 else 1, conv=conv, rngs=rngs)
            for i, (inputs, features) in enumerate(itertools.pairwise(config.widths))
        )
        self.classifier = Linear(config.widths[-1], num_classes, rngs=rngs)
        self.stride = stride * 2 ** sum(block.stride == 2 for block in self.blocks)

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        return self.stride

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, see TableModel. Raises UserError for a height or width that a stride cannot halve."""
        x = self.norm(self.conv(images))
        for block in self.blocks:
            x = block(x)
        return self.classifier(channel_means(x))
