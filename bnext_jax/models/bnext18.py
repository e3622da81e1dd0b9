"""BNext-18: the frame of ResNet-18. Each residual pair is an ELM attention unit and a 3x3 feed-forward unit (docs/spec.md, section 1)."""

import dataclasses
import math
from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, TableModel, check_stride, default_stride
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.bnext_units import KERNEL_QUANTIZER_18, BinaryFeedForward, ElmAttention18
from bnext_jax.nn.layers import Conv, Linear, PReLU, channel_means, max_pool
from bnext_jax.nn.variables import Temperature

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2


@dataclasses.dataclass(frozen=True)
class BNext18Config(NetworkConfig):
    """The arguments of a BNext-18.

    Attributes:
      stem_stride: 2 is the ImageNet stem (7x7 with stride 2, then 3x3 max pool with stride 2). 1 is the CIFAR stem (3x3 with stride 1,
          no pool). None means 2 with 1000 classes, else 1.
      widths: channels of each stage. The stem has the width of the first stage.
    Raises:
      UserError: widths of fewer than 8 channels, no widths, another stride.
    """

    stem_stride: int | None = None
    widths: tuple[int, ...] = WIDTHS

    def check(self) -> None:
        """Raises UserError, see the class."""
        check_stride(self.stem_stride)
        if not self.widths or min(self.widths) < 8:
            raise UserError(f"widths {self.widths} are not a BNext-18: give the channels of each stage, 8 or more")

    def resolved(self, num_classes: int) -> Self:
        """Fills in the stride of the stem. Returns a new config."""
        return dataclasses.replace(self, stem_stride=self.stem_stride or default_stride(num_classes))


class Block18(nnx.Module):
    """An attention unit, which applies the stride and the widening, then a 3x3 feed-forward unit."""

    def __init__(self, inputs: int, features: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.attention = ElmAttention18(inputs, features, stride, rngs=rngs)
        self.feed_forward = BinaryFeedForward(features, 3, kernel_quantizer=KERNEL_QUANTIZER_18, rngs=rngs)

    def __call__(self, x: jax.Array, temperature: jax.Array | float) -> jax.Array:
        """Maps x [N,H,W,C] to [N,H/stride,W/stride,C'], at scalar temperature T."""
        return self.feed_forward(self.attention(x, temperature), temperature)


class BNext18(TableModel):
    """BNext-18.

    Args:
      config: a BNext18Config.
      num_classes: outputs of the classifier.
      rngs: random streams; the network draws its parameters from "params".
    """

    takes_temperature = True

    def __init__(self, config: BNext18Config, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.config = config = config.resolved(num_classes)
        widths = config.widths
        self.downsample = config.stem_stride == 2
        size, stride = (7, 2) if self.downsample else (3, 1)
        self.conv = Conv(3, widths[0], size, stride, rngs=rngs)
        self.norm = BatchNorm(widths[0])
        stages: list[nnx.List[Block18]]
        stages, inputs = [], widths[0]
        for features in widths:
            stage = []
            for j in range(BLOCKS_PER_STAGE):
                stride = 2 if stages and j == 0 else 1
                stage.append(Block18(inputs, features, stride, rngs=rngs))
                inputs = features
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        self.prelu = PReLU(widths[-1])
        self.classifier = Linear(widths[-1], num_classes, rngs=rngs)
        self.temperature = Temperature(jnp.ones(()))

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        stem = 4 if self.downsample else 1
        return stem * math.prod(block.attention.stride for stage in self.stages for block in stage)

    def __call__(self, images: jax.Array, temperature: jax.Array | float | None = None) -> jax.Array:
        """Computes the logits, see TableModel. Raises UserError for a height or width that a stride cannot halve."""
        temperature = self.temperature[...] if temperature is None else temperature
        x = self.norm(self.conv(images))
        if self.downsample:
            x = max_pool(x, 3, 2, 1)
        for stage in self.stages:
            for block in stage:
                x = block(x, temperature)
        return self.classifier(channel_means(self.prelu(x)))
