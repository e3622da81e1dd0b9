"""PokeBNN: bottlenecks of binary convolutions, each with two shortcuts, squeeze-and-excitation and a second norm.

See Zhang et al. 2021, arXiv 2112.00133, figure 3, and AQT's code, which rules where the two differ. Stem and classifier have 8 bits,
squeeze-and-excitation has 4.
"""

import dataclasses
import itertools
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.bounds import COUNT
from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, TableModel, default_stride
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.layers import channel_means, spatial
from bnext_jax.nn.poke_layers import LECUN, SQUEEZE, CalibratedConv, CalibratedLinear, DPReLU, Excitation, Phases, fitted
from bnext_jax.nn.quantizers import AqtSign
from bnext_jax.nn.variables import Switch
from bnext_jax.nn.weight_quantizers import AqtWeightSign

WIDTHS = (64, 128, 256, 512)
DEPTHS = (3, 4, 6, 3)
STEM_WIDTHS = (32, 64)  # no multiplier scales them
STEM_SIZES = {1: 3, 2: 2, 4: 4}  # stride of the stem -> side of its first kernel
EXPANSION = 4  # output channels of a bottleneck, in widths
MULTIPLIERS = (0.25, 0.5, 0.75, 1.0, 2.0)  # what a refusal offers, as far as they fit the widths


@dataclasses.dataclass(frozen=True)
class PokeBnnConfig(NetworkConfig):
    """The arguments of a PokeBNN; the defaults are PokeBNN-1.0x.

    Attributes:
      multiplier: multiplies the widths; the products are cut to whole numbers.
      depths: bottlenecks of each stage. The first bottleneck of all stages but the first has stride 2.
      widths: channels of each stage before the multiplier. The default may be longer than depths: the first stages then count.
      stem_stride: 4 is the published stem (4x4 with stride 4), 2 is 2x2 with stride 2, 1 is 3x3 with stride 1. None means 4 with 1000
          classes, else 1.
      bounds_from_step: the training step, counted from 0, that sets the bounds of 8-bit and 4-bit inputs.
      quantized_from_epoch: the first epoch, counted from 0, in which weights are quantized. Before it they are real.
    Raises:
      UserError: values that do not make a PokeBNN, or a multiplier with which channels do not divide.
    """

    multiplier: float = 1.0
    depths: tuple[int, ...] = DEPTHS
    widths: tuple[int, ...] = WIDTHS
    stem_stride: int | None = None
    bounds_from_step: int = 7500
    quantized_from_epoch: int = 50
    free: ClassVar[tuple[str, ...]] = ("bounds_from_step", "quantized_from_epoch")

    @property
    def features(self) -> tuple[int, ...]:
        """The width of each stage."""
        return self._features(self.multiplier)

    def _features(self, multiplier):
        return tuple(int(multiplier * width) for width in self.widths[: len(self.depths)])

    def check(self) -> None:
        """Raises UserError, see the class."""
        if not self.depths or min(self.depths) < 1:
            raise UserError(f"depths {self.depths} are not a PokeBNN: give the number of bottlenecks of each stage, 1 or more")
        if len(self.widths) != len(self.depths) and (self.widths != WIDTHS or len(self.depths) > len(WIDTHS)):
            raise UserError(
                f"widths {self.widths} are {len(self.widths)}, and depths {self.depths} are {len(self.depths)}; give one width a stage"
            )
        if self.stem_stride not in (None, *STEM_SIZES):
            raise UserError(f"stem_stride is {self.stem_stride}; a PokeBNN's is 1, 2 or 4, or None")
        for name in ("bounds_from_step", "quantized_from_epoch"):
            value = getattr(self, name)
            if not 0 <= value <= COUNT:
                raise UserError(f"{name} is {value}; it is a whole number from 0 to {COUNT}")
        if not 0 < self.multiplier < COUNT or min(self.features) < SQUEEZE:
            raise UserError(
                f"multiplier {self.multiplier} with widths {self.widths} is not a PokeBNN: each product must be {SQUEEZE} or more"
            )
        found = self.features
        if any(one == other for one, other in itertools.pairwise(found)):
            raise UserError(
                f"multiplier {self.multiplier} gives {found}: two stages in a row have the same width, and a file could not tell where the"
                " first one ends"
            )
        if torn := _torn(found):
            works = [f"{m:g}" for m in MULTIPLIERS if not _torn(self._features(m)) and min(self._features(m)) >= SQUEEZE]
            pairs = ", ".join(f"{inputs} channels into {outputs}" for inputs, outputs in torn)
            raise UserError(
                f"multiplier {self.multiplier:g} gives widths that do not divide: a shortcut cannot repeat {pairs};"
                f" use {' or '.join(works) if works else 'other widths'}"
            )

    def resolved(self, num_classes: int) -> Self:
        """Fills in the stride of the stem. Returns a new config."""
        return dataclasses.replace(self, stem_stride=self.stem_stride or (4 if default_stride(num_classes) == 2 else 1))


def _torn(features):
    """[(inputs, outputs)] of the stages whose long shortcut would have to repeat a part of its channels."""
    ends = [STEM_WIDTHS[1], *(EXPANSION * width for width in features)]
    return [(inputs, outputs) for inputs, outputs in itertools.pairwise(ends) if inputs < outputs and outputs % inputs]


class PokeConv(nnx.Module):
    """norm2(DPReLU(norm1(conv(x)) + x + the long shortcut) * excitation(x)). Shortcuts are fitted, see poke_layers.fitted.

    Args:
      inputs: input channels.
      features: output channels.
      size: kernel side.
      stride: stride, in pixels.
      last: whether it is the last one of a bottleneck. norm1 then starts with the scale 0.
      rngs: random streams; the layer draws its parameters from "params".
    """

    def __init__(self, inputs: int, features: int, size: int, stride: int = 1, *, last: bool = False, rngs: nnx.Rngs) -> None:
        self.conv = BinaryConv(
            inputs, features, size, stride,
            input_quantizer=AqtSign(), kernel_quantizer=AqtWeightSign(), padding="same", initializer=LECUN, rngs=rngs,
        )  # fmt: skip
        self.norm1, self.norm2 = (BatchNorm(features, unbiased=False) for _ in range(2))
        if last:
            self.norm1.scale.set_value(jnp.zeros((features,)))
        self.activation = DPReLU(features)
        self.excitation = Excitation(inputs, features, rngs=rngs)

    def __call__(self, x: jax.Array, phases: Phases, long: jax.Array | None = None) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,H/stride,W/stride,features]. `long` is a map for the long shortcut; None = there is none."""
        y = self.norm1(self.conv(x, binarizes=phases.quantized))
        y = y + fitted(x, y.shape)
        if long is not None:
            y = y + fitted(long, y.shape, repeated=True)
        y = self.activation(y)
        return self.norm2(y * spatial(self.excitation(channel_means(x), phases), y.dtype))


class Bottleneck(nnx.Module):
    """PokeConv 1x1 to `features`, 3x3 with the stride, 1x1 to 4 * features. The long shortcut leads from the first input to the third."""

    def __init__(self, inputs: int, features: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.reduce = PokeConv(inputs, features, 1, rngs=rngs)
        self.middle = PokeConv(features, features, 3, stride, rngs=rngs)
        self.expand = PokeConv(features, EXPANSION * features, 1, last=True, rngs=rngs)

    def __call__(self, x: jax.Array, phases: Phases) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,H/stride,W/stride,4 * features]."""
        return self.expand(self.middle(self.reduce(x, phases), phases), phases, x)


class PokeBNN(TableModel):
    """PokeBNN. A stride of 2 halves an odd height or width of a map and rounds up.

    Args:
      config: a PokeBnnConfig.
      num_classes: outputs of the classifier.
      rngs: random streams; the network draws its parameters from "params".
    """

    def __init__(self, config: PokeBnnConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.config = config = config.resolved(num_classes)
        first, inputs = STEM_WIDTHS
        stride: int = config.stem_stride  # type: ignore[assignment]  # resolved
        self.stem = CalibratedConv(3, first, STEM_SIZES[stride], stride, padding="SAME" if stride == 1 else 0, rngs=rngs)
        self.stem_norm, self.stem_activation = BatchNorm(first, unbiased=False), DPReLU(first)
        self.grouped = CalibratedConv(first, inputs, 3, groups=first, rngs=rngs)
        self.grouped_norm, self.grouped_activation = BatchNorm(inputs, unbiased=False), DPReLU(inputs)
        blocks = []
        for i, (features, depth) in enumerate(zip(config.features, config.depths, strict=True)):
            for j in range(depth):
                blocks.append(Bottleneck(inputs, features, 2 if i and j == 0 else 1, rngs=rngs))
                inputs = EXPANSION * features
        self.blocks = nnx.List(blocks)
        self.classifier = CalibratedLinear(inputs, num_classes, bits=8, rngs=rngs)
        self.bounded = Switch(unit="step", since=config.bounds_from_step)
        self.quantized = Switch(unit="epoch", since=config.quantized_from_epoch, binarizes=True)

    @property
    def total_stride(self) -> int:
        """See TableModel. Only the stem needs sides that divide."""
        return self.stem.stride

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, see TableModel. Raises UserError for a height or width that is no multiple of the stem's stride."""
        if any(side % self.stem.stride or not side for side in images.shape[1:3]):
            height, width = images.shape[1:3]
            raise UserError(
                f"images of {height}x{width} do not fit this PokeBNN, whose stem has stride {self.stem.stride};"
                " use a height and a width that are multiples of it"
            )
        phases = Phases(self.bounded[...], self.quantized[...])
        x = self.stem_activation(self.stem_norm(self.stem(images, phases)))
        x = self.grouped_activation(self.grouped_norm(self.grouped(x, phases)))
        for block in self.blocks:
            x = block(x, phases)
        return self.classifier(channel_means(x), phases)
