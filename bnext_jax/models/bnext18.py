"""BNext-18: the ResNet-18 frame, each residual pair being an ELM attention unit and a 3x3 feed-forward unit."""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, default_stride
from bnext_jax.models.bnext import check_stride
from bnext_jax.nn.bnext_units import KERNEL_QUANTIZER_18, BinaryFeedForward, ElmAttention18
from bnext_jax.nn.layers import BatchNorm, Conv, Linear, PReLU, Temperature, channel_means

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2


@dataclasses.dataclass(frozen=True)
class BNext18Config(NetworkConfig):
    """The arguments of a BNext-18.

    Attributes:
      stem_stride: 2 = the ImageNet stem (7x7 stride 2, then 3x3 max pool stride 2); 1 = CIFAR's (3x3 stride 1, no pool);
        None = 2 with 1000 classes and 1 otherwise.
      widths: channels of the four stages; the first is the stem's.
    Raises:
      UserError: widths of fewer than 8 channels, no widths, another stride.
    """

    stem_stride: int | None = None
    widths: tuple[int, ...] = WIDTHS

    def check(self):
        """Raises UserError, see the class."""
        check_stride(self.stem_stride)
        if not self.widths or min(self.widths) < 8:
            raise UserError(f"widths {self.widths} are not a BNext-18: give the channels of each stage, 8 or more")

    def resolved(self, num_classes):
        """The same config with the stem's stride filled in."""
        return dataclasses.replace(self, stem_stride=self.stem_stride or default_stride(num_classes))


class Block18(nnx.Module):
    """Attention unit (stride and widening here), then a 3x3 feed-forward unit."""

    def __init__(self, inputs, features, stride, *, rngs):
        self.attention = ElmAttention18(inputs, features, stride, rngs=rngs)
        self.feed_forward = BinaryFeedForward(features, 3, kernel_quantizer=KERNEL_QUANTIZER_18, rngs=rngs)

    def __call__(self, x, temperature):
        """[N,H,W,C] -> [N,H/stride,W/stride,C']."""
        return self.feed_forward(self.attention(x, temperature), temperature)


class BNext18(nnx.Module):
    """The network.

    Args:
      config: BNext18Config, resolved.
      num_classes: outputs of the classifier.
    """

    def __init__(self, config, num_classes, *, rngs):
        self.config, widths = config, config.widths
        self.downsample = config.stem_stride == 2
        size, stride = (7, 2) if self.downsample else (3, 1)
        self.conv = Conv(3, widths[0], size, stride, rngs=rngs)
        self.norm = BatchNorm(widths[0])
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
    def total_stride(self):
        """By how much the network shrinks an image; its sides must be multiples of this."""
        stem = 4 if self.downsample else 1
        return stem * math.prod(block.attention.stride for stage in self.stages for block in stage)

    def __call__(self, images, temperature=None):
        """[N,H,W,3] normalised, scalar T or None (the network's own) -> logits [N,num_classes] in float32 (float64 for float64).

        Raises UserError for a height or width that a stride cannot halve.
        """
        temperature = self.temperature[...] if temperature is None else temperature
        x = self.norm(self.conv(images))
        if self.downsample:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)])
        for stage in self.stages:
            for block in stage:
                x = block(x, temperature)
        return self.classifier(channel_means(self.prelu(x)))
