"""ResNet (He et al. 2015, arXiv 1512.03385) with real weights, as in torchvision and timm.

    basic:       y = ReLU(BN(conv3x3(ReLU(BN(conv3x3(x))))) + shortcut(x))
    bottleneck:  y = ReLU(BN(conv1x1(ReLU(BN(conv3x3(ReLU(BN(conv1x1(x)))))))) + shortcut(x))
    shortcut:    x, or BN(conv1x1(x)) where the shape changes

The stride of a block is in its first 3x3 convolution (the paper has it in the first 1x1 of a bottleneck) and in the shortcut.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.frame18 import Frame18, FrameConfig
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.layers import Conv

INITIALIZER = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
BOTTLENECK = 4  # output channels of a bottleneck / its inner channels
SIZES: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": (2, 2, 2, 2), "bottleneck": False},
    "resnet34": {"depths": (3, 4, 6, 3), "bottleneck": False},
    "resnet50": {"depths": (3, 4, 6, 3), "bottleneck": True},
}
convolution = functools.partial(Conv, initializer=INITIALIZER)  # (inputs, features, size, stride, rngs=)


@dataclasses.dataclass(frozen=True)
class ResNetConfig(FrameConfig):
    """The arguments of a ResNet, see FrameConfig. It takes images of any size: an odd height or width is halved and rounded up.

    Attributes:
      depths: number of blocks of each stage, one number for each of `widths`.
      bottleneck: whether the blocks are bottlenecks. `widths` are then their inner widths; a block has four times as many outputs.
    Raises:
      UserError: depths below 1, or not as many as widths.
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False

    @property
    def expansion(self) -> int:
        """See FrameConfig."""
        return BOTTLENECK if self.bottleneck else 1

    def check(self) -> None:
        """Raises UserError, see the class."""
        super().check()
        if len(self.depths) != len(self.widths) or min(self.depths) < 1:
            raise UserError(f"depths {self.depths} do not fit widths {self.widths}: give the number of blocks of each stage, 1 or more")


class Unit(nnx.Module):
    """BN(conv(x))."""

    def __init__(self, inputs: int, features: int, size: int, stride: int = 1, *, rngs: nnx.Rngs) -> None:
        self.conv = convolution(inputs, features, size, stride, rngs=rngs)
        self.norm = BatchNorm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,ceil(H/stride),ceil(W/stride),C']."""
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """Convolutions with one shortcut around them. See the module for the formulas.

    Args:
      inputs: input channels.
      features: output channels of every convolution, in order.
      sizes: kernel side of every convolution. The first that is larger than 1 has the stride.
      stride: 1 or 2.
      rngs: random streams; the block draws its parameters from "params".
    """

    def __init__(self, inputs: int, features: Sequence[int], sizes: Sequence[int], stride: int, *, rngs: nnx.Rngs) -> None:
        strided = next(i for i, size in enumerate(sizes) if size > 1)
        units = [
            Unit(channels, width, size, stride if i == strided else 1, rngs=rngs)
            for i, (channels, width, size) in enumerate(zip((inputs, *features[:-1]), features, sizes, strict=True))
        ]
        self.units = nnx.List(units)
        changes = stride != 1 or inputs != features[-1]
        self.shortcut = Unit(inputs, features[-1], 1, stride, rngs=rngs) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,ceil(H/stride),ceil(W/stride),outputs], in the type of x."""
        y = x
        for unit in self.units[:-1]:
            y = jax.nn.relu(unit(y))
        return jax.nn.relu(self.units[-1](y) + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(Frame18):
    """A ResNet. The stem is conv, batch norm, ReLU, max pool.

    Args:
      config: a ResNetConfig.
      num_classes: outputs of the classifier.
      rngs: random streams; the network draws its parameters from "params".
    """

    def __init__(self, config: ResNetConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, num_classes, initializer=INITIALIZER, rngs=rngs)

    def make_block(self, inputs: int, features: int, stride: int, place: tuple[int, int], *, rngs: nnx.Rngs) -> Block:
        """See Frame18."""
        del place
        if self.config.bottleneck:
            return Block(inputs, (features, features, features * BOTTLENECK), (1, 3, 1), stride, rngs=rngs)
        return Block(inputs, (features, features), (3, 3), stride, rngs=rngs)

    def stem(self, images: jax.Array) -> jax.Array:
        """See Frame18."""
        return self.pooled(jax.nn.relu(self.norm(self.conv(images))))
