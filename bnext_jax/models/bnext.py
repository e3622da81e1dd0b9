"""BNext-T, S, M and L: a real stem, binary blocks, a real head.

See Guo et al. 2022, arXiv 2211.12933, table 1, and docs/spec.md, section 1.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, TableModel, check_bits, check_stride, default_stride
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.bnext_units import INPUT_QUANTIZER, BasicBlock
from bnext_jax.nn.layers import Conv, Linear, PReLU, channel_means
from bnext_jax.nn.variables import Buffer, Temperature

# The stem's width, then the width of each block.
WIDTHS = {
    "bnext_tiny": (32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2),
    "bnext_small": (48, 96, *[192] * 2, *[384] * 2, *[768] * 6, *[1536] * 2),
    "bnext_middle": (48, 96, *[192] * 4, *[384] * 4, *[768] * 8, *[1536] * 4),
    "bnext_large": (64, 128, *[256] * 4, *[512] * 4, *[1024] * 16, *[2048] * 4),
}


def check_widths(widths: Sequence[int], network: str = "BNext") -> None:
    """Raises UserError unless there are two or more widths, the first is at least 8, and each keeps or doubles the previous width."""
    steps_fit = all(after in (before, 2 * before) for before, after in itertools.pairwise(widths))
    if len(widths) < 2 or min(widths) < 8 or not steps_fit:
        raise UserError(
            f"widths {tuple(widths)} are not a {network}: give the stem's width (8 or more), then one width per block,"
            " each equal to the previous width or twice as large"
        )


@dataclasses.dataclass(frozen=True)
class BNextConfig(NetworkConfig):
    """The arguments of a BNext.

    Attributes:
      widths: channels of the stem, then of each block.
      stem_stride: 1 or 2, in pixels; None means 2 with 1000 classes, else 1, as in the reference code.
      elm_attention: False replaces ELM attention by 3x3 feed-forward units (ablation).
      info_recoupling: False removes info-recoupling (ablation).
      gate_bits: bits of the gates in the quantized edition, 4 or 8; None means float.
      stem_bits: bits of the stem in the quantized edition, 4 or 8; None means float.
      classifier_bits: bits of the classifier in the quantized edition, 4 or 8; None means float.
      ste_window: half the width of the window in which gradients pass the sign of an activation. BNext has 1.5; inf = everywhere.
    Raises:
      UserError: widths that do not make a BNext, another stride, other bits.
    """

    widths: tuple[int, ...]
    stem_stride: int | None = None
    elm_attention: bool = True
    info_recoupling: bool = True
    gate_bits: int | None = None
    stem_bits: int | None = None
    classifier_bits: int | None = None
    ste_window: float = INPUT_QUANTIZER.clip_value
    free: ClassVar[tuple[str, ...]] = ("ste_window",)

    def check(self) -> None:
        """Raises UserError, see the class."""
        check_widths(self.widths)
        check_stride(self.stem_stride)
        for name in ("gate_bits", "stem_bits", "classifier_bits"):
            check_bits(name, getattr(self, name))
        if not self.ste_window > 0:
            raise UserError(f"ste_window is {self.ste_window}; it must be positive")

    def resolved(self, num_classes: int) -> Self:
        """Fills in the stride of the stem. Returns a new config."""
        return dataclasses.replace(self, stem_stride=self.stem_stride or default_stride(num_classes))

    def edition(self, gate_bits: int) -> Self:
        """The config of the quantized edition: gates of gate_bits, stem and classifier of 8 bits (docs/spec.md, section 5)."""
        return dataclasses.replace(self, gate_bits=gate_bits, stem_bits=8, classifier_bits=8)


class Stem(nnx.Module):
    """A real 3x3 convolution and batch norm, without activation.

    The PyTorch state dict holds a PReLU here. The stem keeps it but never uses it.
    """

    def __init__(self, features: int, stride: int, *, bits: int | None = None, rngs: nnx.Rngs) -> None:
        self.conv = Conv(3, features, 3, stride, weight_bits=bits, rngs=rngs)
        self.norm = BatchNorm(features)
        self.prelu = PReLU(features, slope=float(features), kind=Buffer)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps images [N,H,W,3] to (map [N,H/stride,W/stride,C], its channel means [N,C])."""
        return self.norm.with_means(self.conv(images))


class BNext(TableModel):
    """BNext-T, S, M or L, by its config.

    Args:
      config: a BNextConfig.
      num_classes: outputs of the classifier.
      rngs: random streams; the network draws its parameters from "params".
    """

    takes_temperature = True

    def __init__(self, config: BNextConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.config = config = config.resolved(num_classes)
        widths = config.widths
        self.stem = Stem(widths[0], config.stem_stride, bits=config.stem_bits, rngs=rngs)  # type: ignore[arg-type]  # resolved
        blocks = []
        for i, (inputs, features) in enumerate(itertools.pairwise(widths), start=1):
            blocks.append(
                BasicBlock(
                    inputs,
                    features,
                    2 if features != inputs and i > 1 else 1,
                    elm_attention=config.elm_attention and i % 2 == 0,
                    info_recoupling=config.info_recoupling,
                    input_quantizer=dataclasses.replace(INPUT_QUANTIZER, clip_value=config.ste_window),
                    gate_bits=config.gate_bits,
                    rngs=rngs,
                )
            )
        self.blocks = nnx.List(blocks)
        self.prelu = PReLU(widths[-1])
        self.classifier = Linear(widths[-1], num_classes, bits=config.classifier_bits, rngs=rngs)
        self.temperature = Temperature(jnp.ones(()))

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        return self.stem.conv.stride * math.prod(block.unit3x3.stride for block in self.blocks)

    def __call__(self, images: jax.Array, temperature: jax.Array | float | None = None) -> jax.Array:
        """Computes the logits, see TableModel. Raises UserError for a height or width that a stride cannot halve."""
        temperature = self.temperature[...] if temperature is None else temperature
        x, mean = self.stem(images)
        for block in self.blocks:
            x, mean = block.step(x, mean, temperature)
        return self.classifier(channel_means(self.prelu(x)))
