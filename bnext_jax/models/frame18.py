"""The frame of ResNet (He et al. 2015, arXiv 1512.03385): stem, four stages, pooling, classifier.

ResNet itself and the binary networks on ResNet-18 share it.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import jax
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, TableModel, check_stride, default_stride
from bnext_jax.models.stages import StagedConfig
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.layers import Conv, Initializer, Linear, channel_means, max_pool

WIDTHS = (64, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class FrameConfig(NetworkConfig, abc.ABC):
    """The arguments that all networks in this frame take.

    Attributes:
      stem_stride: 2 is the ImageNet stem (7x7 with stride 2, then 3x3 max pool with stride 2). 1 is the CIFAR stem (3x3 with stride 1,
          no pool). None means 2 with 1000 classes, else 1.
      stem_pool: False leaves out the max pool of the ImageNet stem, for small images.
      widths: channels of each stage. The stem has the width of the first stage. Every stage but the first halves the map.
    Raises:
      UserError: no widths or widths below 1, another stride.
    """

    stem_stride: int | None = None
    widths: tuple[int, ...] = WIDTHS
    stem_pool: bool = True

    @property
    def stem_factor(self) -> int:
        """The factor by which the stem of a resolved config downsamples."""
        return 1 if self.stem_stride == 1 else 4 if self.stem_pool else 2

    @property
    def expansion(self) -> int:
        """Output channels of a block / width of its stage."""
        return 1

    @property
    @abc.abstractmethod
    def depths(self) -> tuple[int, ...]:
        """The number of blocks of each stage."""

    def check(self) -> None:
        """Raises UserError, see the class."""
        super().check()
        check_stride(self.stem_stride)
        if not self.widths or min(self.widths) < 1:
            raise UserError(f"widths {self.widths} make no network: give the channels of each stage, 1 or more")

    def resolved(self, num_classes: int) -> Self:
        """Fills in the stride of the stem. Returns a new config."""
        return dataclasses.replace(self, stem_stride=self.stem_stride or default_stride(num_classes))


@dataclasses.dataclass(frozen=True)
class Frame18Config(FrameConfig, StagedConfig):
    """The arguments of a binary network in this frame, see FrameConfig and StagedConfig. All its stages have the same number of blocks.

    Attributes:
      depth: number of blocks of each stage.
    Raises:
      UserError: a depth below 1.
    """

    depth: int = 2

    @property
    def depths(self) -> tuple[int, ...]:
        """See FrameConfig."""
        return (self.depth,) * len(self.widths)

    def check(self) -> None:
        """Raises UserError, see the class."""
        super().check()
        if self.depth < 1:
            raise UserError(f"depth is {self.depth}; it is the number of blocks of each stage, 1 or more")


class Frame18(TableModel):
    """A network in the frame of ResNet. A subclass makes the blocks, and may change the stem and the head.

    Args:
      config: a FrameConfig.
      num_classes: outputs of the classifier.
      padding: of the stem, None = PyTorch's or "SAME" = TensorFlow's, see nn.layers.Conv.
      norm: makes a batch norm from its number of channels.
      initializer: draws the kernel of the stem, see nn.layers.Conv.
      head_initializer: draws the kernel of the classifier, see nn.layers.Linear.
      rngs: random streams; the network draws its parameters from "params".
    """

    has_taps: ClassVar[bool] = True

    def __init__(
        self,
        config: FrameConfig,
        num_classes: int,
        *,
        padding: Literal["SAME"] | None = None,
        norm: Callable[[int], BatchNorm] = BatchNorm,
        initializer: Initializer | None = None,
        head_initializer: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.config: Any = config.resolved(num_classes)
        self.padding = padding
        widths = config.widths
        size, stride = (7, 2) if self.config.stem_stride == 2 else (3, 1)
        self.conv = Conv(3, widths[0], size, stride, padding=padding, initializer=initializer, rngs=rngs)
        self.norm = norm(widths[0])
        stages, inputs = [], widths[0]
        for i, (features, depth) in enumerate(zip(widths, config.depths, strict=True)):
            stage = []
            for j in range(depth):
                stage.append(self.make_block(inputs, features, 2 if i > 0 and j == 0 else 1, (i, j), rngs=rngs))
                inputs = features * config.expansion
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        self.classifier = Linear(inputs, num_classes, initializer=head_initializer, rngs=rngs)

    @abc.abstractmethod
    def make_block(self, inputs: int, features: int, stride: int, place: tuple[int, int], *, rngs: nnx.Rngs) -> nnx.Module:
        """Makes a block, which maps [N,H,W,inputs] to [N,H/stride,W/stride,features * config.expansion].

        `place` is (number of the stage, number of the block in it), both from 0. self.config is set already.
        """

    def pooled(self, x: jax.Array) -> jax.Array:
        """The stem's max pool, if it has one."""
        return max_pool(x, 3, 2, self.padding or 1) if self.config.stem_factor == 4 else x

    def stem(self, images: jax.Array) -> jax.Array:
        """Maps images to the input of the first block."""
        return self.pooled(self.norm(self.conv(images)))

    def head(self, x: jax.Array) -> jax.Array:
        """Maps the last block's output to the map whose means are classified."""
        return x

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        return self.config.stem_factor * 2 ** (len(self.stages) - 1)

    def __call__(self, images: jax.Array, taps: list[jax.Array] | None = None) -> jax.Array:
        """Computes the logits, see TableModel. Raises UserError for a side that a shortcut's average pool cannot halve."""
        x = self.stem(images)
        for stage in self.stages:
            for block in stage:
                x = block(x)
                if taps is not None:
                    taps.append(x)
        return self.classifier(channel_means(self.head(x)))
