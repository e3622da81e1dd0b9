"""EfficientNet as in timm (PyTorch), and EfficientNet-Lite as in TensorFlow. STYLES holds the differences."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, TableModel
from bnext_jax.nn.batch_norm import NORM_EPSILON, BatchNorm
from bnext_jax.nn.depthwise import DepthwiseConv
from bnext_jax.nn.layers import Conv, Linear, channel_means, spatial

STEM_WIDTH, HEAD_WIDTH = 32, 1280
# The stages of B0: expansion (1 is a depthwise-separable block), kernel side, stride of the first block, width, number of blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
WIDTH_STEP = 8
SQUEEZE = 0.25  # width of the bottleneck of squeeze-and-excitation, as a fraction of the block's input width


def scaled_width(width: int, factor: float) -> int:
    """Rounds width * factor to the nearest multiple of 8, at least 8. Halves round up.

    If the result is below 90 % of width * factor, the next multiple of 8 replaces it.
    """
    exact = width * factor
    rounded = max(WIDTH_STEP, math.floor(exact / WIDTH_STEP + 0.5) * WIDTH_STEP)
    return rounded if rounded >= 0.9 * exact else rounded + WIDTH_STEP


def scaled(width_factor: float, depth_factor: float) -> dict[str, Any]:
    """The arguments of an EfficientNet at one compound scale.

    Args:
      width_factor: multiplies B0's widths; `scaled_width` rounds them.
      depth_factor: multiplies B0's numbers of blocks, which are rounded up.
    Returns:
      Fields of an EfficientNetConfig: stem_width, head_width, stages.
    """
    return {
        "stem_width": scaled_width(STEM_WIDTH, width_factor),
        "head_width": scaled_width(HEAD_WIDTH, width_factor),
        "stages": tuple(
            (expansion, size, stride, scaled_width(width, width_factor), math.ceil(depth * depth_factor))
            for expansion, size, stride, width, depth in STAGES
        ),
    }


SCALES = {
    "efficientnet_b0": scaled(1.0, 1.0),
    "efficientnet_b2": scaled(1.1, 1.2),
    "efficientnet_b4": scaled(1.4, 1.8),
    "tf_efficientnet_lite0": {**scaled(1.0, 1.0), "style": "tf_lite"},
}


@dataclasses.dataclass(frozen=True)
class Style:
    """The differences between the PyTorch and the TensorFlow Lite form.

    Attributes:
      activation: activation after every convolution but the projections.
      excitation: whether blocks have squeeze-and-excitation.
      padding: padding of convolutions larger than 1x1, see nn.layers.Conv.
      epsilon: epsilon of batch norm.
    """

    activation: Callable
    excitation: bool
    padding: Literal["SAME"] | None
    epsilon: float


STYLES = {
    "pytorch": Style(jax.nn.silu, True, None, NORM_EPSILON),
    "tf_lite": Style(jax.nn.relu6, False, "SAME", 1e-3),
}


def check_stages(stages: Sequence[Sequence[int]]) -> None:
    """Raises UserError unless there is at least one stage, and each stage is five positive integers with an odd kernel side."""
    for stage in stages:
        if len(stage) != 5 or any(not isinstance(n, int) or n < 1 for n in stage) or stage[1] % 2 == 0:
            raise UserError(
                f"stage {tuple(stage)} is not (expansion, odd kernel side, stride, width, number of blocks), five positive integers"
            )
    if not stages:
        raise UserError("stages is empty; an EfficientNet needs at least one stage")


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig(NetworkConfig):
    """The arguments of an EfficientNet; the defaults are B0's.

    Attributes:
      stem_width: channels of the 3x3 stem.
      head_width: channels of the 1x1 convolution before the pooling.
      stages: (expansion, kernel side, stride, width, number of blocks) of each stage; see STAGES.
      stem_stride: stride of the stem, in pixels.
      style: a key of STYLES.
    Raises:
      UserError: stages of another form, an unknown style.
    """

    stem_width: int = STEM_WIDTH
    head_width: int = HEAD_WIDTH
    stages: tuple[tuple[int, ...], ...] = STAGES
    stem_stride: int = 2
    style: str = "pytorch"

    def check(self) -> None:
        """Raises UserError, see the class."""
        check_stages(self.stages)
        if self.style not in STYLES:
            raise UserError(f"an EfficientNet's style is one of {', '.join(STYLES)}, not {self.style!r}")


class SqueezeExcitation(nnx.Module):
    """x * sigmoid(W2 silu(W1 m + b1) + b2). m are the channel means of x. W1: C -> squeezed, W2: squeezed -> C."""

    def __init__(self, features: int, squeezed: int, *, rngs: nnx.Rngs) -> None:
        self.reduce = Linear(features, squeezed, decay="weights", rngs=rngs)
        self.expand = Linear(squeezed, features, decay="weights", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,C] to the same shape and type. The gate runs in at least float32."""
        mean = channel_means(x)
        return x * spatial(jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(mean)))), x.dtype)


class InvertedResidual(nnx.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection. Adds the input if the shapes agree.

    Args:
      inputs: input channels.
      features: output channels.
      size: side of the depthwise kernel, odd.
      stride: stride of the depthwise convolution, in pixels.
      expansion: inner width / inputs. 1 leaves out the 1x1 expansion, which gives the depthwise-separable block.
      style: a Style.
      rngs: random streams; the block draws its parameters from "params".
    """

    def __init__(self, inputs: int, features: int, size: int, stride: int, expansion: int, *, style: Style, rngs: nnx.Rngs) -> None:
        inner = inputs * expansion
        self.activation = style.activation
        self.residual = stride == 1 and inputs == features
        self.expand = Conv(inputs, inner, 1, rngs=rngs) if expansion > 1 else None
        self.expand_norm = BatchNorm(inner, epsilon=style.epsilon) if expansion > 1 else None
        self.depthwise = DepthwiseConv(inner, size, stride, padding=style.padding, rngs=rngs)
        self.depthwise_norm = BatchNorm(inner, epsilon=style.epsilon)
        self.excitation = SqueezeExcitation(inner, max(1, round(inputs * SQUEEZE)), rngs=rngs) if style.excitation else None
        self.project = Conv(inner, features, 1, rngs=rngs)
        self.project_norm = BatchNorm(features, epsilon=style.epsilon)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,ceil(H/stride),ceil(W/stride),features], in the type of x."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self.activation(self.expand_norm(self.expand(y)))
        y = self.activation(self.depthwise_norm(self.depthwise(y)))
        if self.excitation is not None:
            y = self.excitation(y)
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class EfficientNet(TableModel):
    """An EfficientNet. It takes images of any size: a stride of 2 halves an odd height or width and rounds up, as in PyTorch.

    Args:
      config: an EfficientNetConfig.
      num_classes: outputs of the classifier.
      rngs: random streams; the network draws its parameters from "params".
    """

    def __init__(self, config: EfficientNetConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.config, stem_width, head_width, style = config, config.stem_width, config.head_width, STYLES[config.style]
        self.activation = style.activation
        self.stem = Conv(3, stem_width, 3, config.stem_stride, padding=style.padding, rngs=rngs)
        self.stem_norm = BatchNorm(stem_width, epsilon=style.epsilon)
        built, inputs = [], stem_width
        for expansion, size, stride, features, depth in config.stages:
            blocks = []
            for j in range(depth):
                step = stride if j == 0 else 1
                blocks.append(InvertedResidual(inputs, features, size, step, expansion, style=style, rngs=rngs))
                inputs = features
            built.append(nnx.List(blocks))
        self.stages = nnx.List(built)
        self.head = Conv(inputs, head_width, 1, rngs=rngs)
        self.head_norm = BatchNorm(head_width, epsilon=style.epsilon)
        self.classifier = Linear(head_width, num_classes, rngs=rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """Maps images [N,H,W,3] to the last feature map [N,H',W',head_width], after the norm and the activation of the head."""
        x = self.activation(self.stem_norm(self.stem(images)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.activation(self.head_norm(self.head(x)))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, see TableModel."""
        x = self.features(images)
        return self.classifier(channel_means(x))
