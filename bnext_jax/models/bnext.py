"""BNext-T, S, M and L: a real stem, binary blocks, a real head (SPEC section 1; paper, table 1)."""

import dataclasses
import itertools
import math

import jax.numpy as jnp
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, check_bits, default_stride
from bnext_jax.nn.bnext_units import BasicBlock
from bnext_jax.nn.layers import BatchNorm, Buffer, Conv, Linear, PReLU, Temperature, channel_means

# One entry per feature map: the stem's width, then each block's.
WIDTHS = {
    "bnext_tiny": (32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2),
    "bnext_small": (48, 96, *[192] * 2, *[384] * 2, *[768] * 6, *[1536] * 2),
    "bnext_middle": (48, 96, *[192] * 4, *[384] * 4, *[768] * 8, *[1536] * 4),
    "bnext_large": (64, 128, *[256] * 4, *[512] * 4, *[1024] * 16, *[2048] * 4),
}


def check_widths(widths):
    """Raises UserError unless each width equals the one before it or doubles it, and the first is at least 8."""
    steps_fit = all(after in (before, 2 * before) for before, after in itertools.pairwise(widths))
    if len(widths) < 2 or min(widths) < 8 or not steps_fit:
        raise UserError(
            f"widths {tuple(widths)} are not a BNext: give the stem's width (8 or more) and one width a block,"
            " each the same as the one before it or twice as large"
        )


def check_stride(stride):
    """Raises UserError unless a stem's stride is 1, 2 or None."""
    if stride not in (None, 1, 2):
        raise UserError(f"stem_stride is {stride}; it is 1 or 2, or None")


@dataclasses.dataclass(frozen=True)
class BNextConfig(NetworkConfig):
    """The arguments of a BNext.

    Attributes:
      widths: the stem's width, then one a block.
      stem_stride: 1 or 2; None = the reference's rule, 2 with 1000 classes and 1 otherwise.
      elm_attention, info_recoupling: the ablation's switches.
      gate_bits, stem_bits, classifier_bits: of the quantized edition's layers, 4 or 8; None = float.
    Raises:
      UserError: widths that are no BNext, another stride, other bits.
    """

    widths: tuple[int, ...]
    stem_stride: int | None = None
    elm_attention: bool = True
    info_recoupling: bool = True
    gate_bits: int | None = None
    stem_bits: int | None = None
    classifier_bits: int | None = None

    def check(self):
        """Raises UserError, see the class."""
        check_widths(self.widths)
        check_stride(self.stem_stride)
        for name in ("gate_bits", "stem_bits", "classifier_bits"):
            check_bits(name, getattr(self, name))

    def resolved(self, num_classes):
        """The same config with the stem's stride filled in."""
        return dataclasses.replace(self, stem_stride=self.stem_stride or default_stride(num_classes))

    def edition(self, gate_bits):
        """The config of the quantized edition: gates of gate_bits, stem and classifier of 8 (SPEC section 5)."""
        return dataclasses.replace(self, gate_bits=gate_bits, stem_bits=8, classifier_bits=8)


class Stem(nnx.Module):
    """Real 3x3 convolution and batch norm, without activation; the state dict's PReLU there is never used."""

    def __init__(self, features, stride, *, bits=None, rngs):
        self.conv = Conv(3, features, 3, stride, weight_bits=bits, rngs=rngs)
        self.norm = BatchNorm(features)
        self.prelu = PReLU(features, slope=float(features), kind=Buffer)

    def __call__(self, images):
        """[N,H,W,3] -> ([N,H/stride,W/stride,C], its channel means [N,C])."""
        return self.norm.with_means(self.conv(images))


class BNext(nnx.Module):
    """The network.

    Args:
      config: BNextConfig, resolved.
      num_classes: outputs of the classifier.
    """

    def __init__(self, config, num_classes, *, rngs):
        self.config, widths = config, config.widths
        self.stem = Stem(widths[0], config.stem_stride, bits=config.stem_bits, rngs=rngs)
        blocks = []
        for i, (inputs, features) in enumerate(itertools.pairwise(widths), start=1):
            blocks.append(
                BasicBlock(
                    inputs,
                    features,
                    2 if features != inputs and i > 1 else 1,
                    elm_attention=config.elm_attention and i % 2 == 0,
                    info_recoupling=config.info_recoupling,
                    gate_bits=config.gate_bits,
                    rngs=rngs,
                )
            )
        self.blocks = nnx.List(blocks)
        self.prelu = PReLU(widths[-1])
        self.classifier = Linear(widths[-1], num_classes, bits=config.classifier_bits, rngs=rngs)
        self.temperature = Temperature(jnp.ones(()))

    @property
    def total_stride(self):
        """By how much the network shrinks an image; its sides must be multiples of this."""
        return self.stem.conv.stride * math.prod(block.unit3x3.stride for block in self.blocks)

    def __call__(self, images, temperature=None):
        """Logits.

        Args:
          images: [N,H,W,3], normalised; their type is the type of the computation.
          temperature: scalar T of the binary weights; None = the network's own Temperature.
        Returns:
          [N, num_classes] in float32 (float64 for float64 images).
        Raises:
          UserError: a height or width that a stride cannot halve.
        """
        temperature = self.temperature[...] if temperature is None else temperature
        x, mean = self.stem(images)
        for block in self.blocks:
            x, mean = block.step(x, mean, temperature)
        return self.classifier(channel_means(self.prelu(x)))
