"""EfficientNet in timm's PyTorch form, and EfficientNet-Lite as TensorFlow trained it; STYLES says how they differ."""

import dataclasses
import math
from collections.abc import Callable

import jax
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig
from bnext_jax.nn.depthwise import DepthwiseConv
from bnext_jax.nn.layers import NORM_EPSILON, BatchNorm, Conv, Linear, channel_means, spatial

STEM_WIDTH, HEAD_WIDTH = 32, 1280
# B0's stages: expansion (1 = depthwise-separable), kernel side, stride of the first block, width, number of blocks.
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
SQUEEZE = 0.25  # width of the excitation's bottleneck, as a part of the block's input width


def scaled_width(width, factor):
    """width * factor as the nearest multiple of 8 (halves go up), or the next one where that loses more than 10 %."""
    exact = width * factor
    rounded = max(WIDTH_STEP, math.floor(exact / WIDTH_STEP + 0.5) * WIDTH_STEP)
    return rounded if rounded >= 0.9 * exact else rounded + WIDTH_STEP


def scaled(width_factor, depth_factor):
    """EfficientNet's arguments for one compound scale: B0's widths and depths (rounded up) times the two factors."""
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
    """What the two editions do differently.

    Attributes:
      activation: of every convolution but the projections. excitation: whether blocks have squeeze-and-excitation.
      padding: of convolutions larger than 1x1, see nn.layers.Conv. epsilon: of batch norm.
    """

    activation: Callable
    excitation: bool
    padding: str | None
    epsilon: float


STYLES = {
    "pytorch": Style(jax.nn.silu, True, None, NORM_EPSILON),
    "tf_lite": Style(jax.nn.relu6, False, "SAME", 1e-3),
}


def check_stages(stages):
    """Raises UserError unless there is a stage and every one is five positive integers with an odd kernel side."""
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
      stages: one (expansion, kernel side, stride, width, number of blocks) a stage; see STAGES.
      stem_stride: of the stem, in pixels.
      style: a key of STYLES.
    Raises:
      UserError: stages of another form, an unknown style.
    """

    stem_width: int = STEM_WIDTH
    head_width: int = HEAD_WIDTH
    stages: tuple[tuple[int, ...], ...] = STAGES
    stem_stride: int = 2
    style: str = "pytorch"

    def check(self):
        """Raises UserError, see the class."""
        check_stages(self.stages)
        if self.style not in STYLES:
            raise UserError(f"an EfficientNet's style is one of {', '.join(STYLES)}, not {self.style!r}")


class SqueezeExcitation(nnx.Module):
    """x * sigmoid(W2 silu(W1 m + b1) + b2) with m the channel means of x; W1: C -> squeezed, W2: squeezed -> C."""

    def __init__(self, features, squeezed, *, rngs):
        self.reduce = Linear(features, squeezed, decay="weights", rngs=rngs)
        self.expand = Linear(squeezed, features, decay="weights", rngs=rngs)

    def __call__(self, x):
        """[N,H,W,C] -> [N,H,W,C], the type of x; the gate itself is computed in at least float32."""
        mean = channel_means(x)
        return x * spatial(jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(mean)))), x.dtype)


class InvertedResidual(nnx.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection, plus the input where shapes agree.

    Args:
      inputs, features: channels in and out. size: depthwise kernel side. stride: of the depthwise convolution.
      expansion: inner width / inputs; 1 leaves the expansion out: the depthwise-separable block. style: a Style.
    """

    def __init__(self, inputs, features, size, stride, expansion, *, style, rngs):
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

    def __call__(self, x):
        """[N,H,W,inputs] -> [N,ceil(H/stride),ceil(W/stride),features], the type of x."""
        y = x
        if self.expand is not None:
            y = self.activation(self.expand_norm(self.expand(y)))
        y = self.activation(self.depthwise_norm(self.depthwise(y)))
        if self.excitation is not None:
            y = self.excitation(y)
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class EfficientNet(nnx.Module):
    """The network.

    Args:
      config: EfficientNetConfig.
      num_classes: outputs of the classifier.
    Any image size will do: a stride of 2 takes an odd height or width to the half rounded up, as in PyTorch.
    """

    def __init__(self, config, num_classes, *, rngs):
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

    def features(self, images):
        """The last map, after the head's norm and activation: [N,H,W,3] -> [N,H',W',head_width], the type of images."""
        x = self.activation(self.stem_norm(self.stem(images)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.activation(self.head_norm(self.head(x)))

    def __call__(self, images, temperature=None):
        """Logits.

        Args:
          images: [N,H,W,3], normalised; their type is the type of the computation.
          temperature: ignored; every network has this signature.
        Returns:
          [N, num_classes] in float32 (float64 for float64 images).
        """
        x = self.features(images)
        return self.classifier(channel_means(x))
