"""ConvNeXt: a patch stem, then stages of depthwise 7x7 blocks with layer norm and layer scale. A downsampling layer separates stages."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, TableModel
from bnext_jax.nn.depthwise import DepthwiseConv
from bnext_jax.nn.layers import Conv, Linear, accumulation_dtype, channel_means

EPSILON = 1e-6
KERNEL = 7
EXPANSION = 4
PATCH = 4
SIZES = {"convnext_tiny": {"widths": (96, 192, 384, 768), "depths": (3, 3, 9, 3)}}


@dataclasses.dataclass(frozen=True)
class ConvNeXtConfig(NetworkConfig):
    """The arguments of a ConvNeXt; the defaults are ConvNeXt-T's.

    Attributes:
      widths: channels of each stage.
      depths: number of blocks of each stage.
      patch: side in pixels of the square that the stem maps to one position.
      layer_scale: initial value of gamma.
    Raises:
      UserError: no stages, widths and depths of different lengths, or a value below 1.
    """

    widths: tuple[int, ...] = SIZES["convnext_tiny"]["widths"]
    depths: tuple[int, ...] = SIZES["convnext_tiny"]["depths"]
    patch: int = PATCH
    layer_scale: float = 1e-6

    def check(self) -> None:
        """Raises UserError, see the class."""
        if not self.widths or len(self.widths) != len(self.depths) or min(*self.widths, *self.depths) < 1:
            raise UserError(
                f"widths {self.widths} and depths {self.depths} are not a ConvNeXt: give one or more stages,"
                " each with one positive width and one positive depth"
            )


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(var + 1e-6) * scale + bias over the last axis, with the biased variance, computed in at least float32."""

    def __init__(self, features: int) -> None:
        self.scale = nnx.Param(jnp.ones((features,)), decay="rest")
        self.bias = nnx.Param(jnp.zeros((features,)), decay="rest")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes x [..., C]. The result has the shape and type of x."""
        y = x.astype(accumulation_dtype(x.dtype))
        y = y - y.mean(-1, keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPSILON)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class Block(nnx.Module):
    """x + gamma * linear(gelu(linear(norm(depthwise 7x7(x))))), with C -> 4C -> C channels. gamma has one factor per channel."""

    def __init__(self, features: int, layer_scale: float, *, rngs: nnx.Rngs) -> None:
        self.depthwise = DepthwiseConv(features, KERNEL, bias=True, rngs=rngs)
        self.norm = LayerNorm(features)
        self.expand = Linear(features, EXPANSION * features, rngs=rngs)
        self.project = Linear(EXPANSION * features, features, rngs=rngs)
        self.gamma = nnx.Param(jnp.full((features,), layer_scale, float), decay="rest")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,C] to the same shape and type."""
        y = self.expand(self.norm(self.depthwise(x)))
        y = self.project(jax.nn.gelu(y, approximate=False))
        return x + y * self.gamma[...].astype(x.dtype)


class Downsample(nnx.Module):
    """Layer norm, then a 2x2 convolution with stride 2."""

    def __init__(self, inputs: int, features: int, *, rngs: nnx.Rngs) -> None:
        self.norm = LayerNorm(inputs)
        self.conv = Conv(inputs, features, 2, 2, padding=0, bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,H/2,W/2,features], in the type of x."""
        return self.conv(self.norm(x))


class ConvNeXt(TableModel):
    """A ConvNeXt.

    Args:
      config: a ConvNeXtConfig.
      num_classes: outputs of the classifier.
      rngs: random streams; the network draws its parameters from "params".
    """

    def __init__(self, config: ConvNeXtConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.config, widths, depths, patch = config, config.widths, config.depths, config.patch
        self.divisor = patch * 2 ** (len(widths) - 1)
        self.stem = Conv(3, widths[0], patch, patch, padding=0, bias=True, rngs=rngs)
        self.stem_norm = LayerNorm(widths[0])
        self.downsamples = nnx.List([Downsample(inputs, features, rngs=rngs) for inputs, features in itertools.pairwise(widths)])
        self.stages = nnx.List(
            [
                nnx.List([Block(features, config.layer_scale, rngs=rngs) for _ in range(depth)])
                for features, depth in zip(widths, depths, strict=True)
            ]
        )
        self.head_norm = LayerNorm(widths[-1])
        self.classifier = Linear(widths[-1], num_classes, rngs=rngs)

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        return self.divisor

    def features(self, images: jax.Array) -> jax.Array:
        """Computes the last feature map, before the pooling and the norm of the head.

        Args:
          images: [N,H,W,3], normalized.
        Returns:
          [N,H/d,W/d,C] with d = patch * 2^(stages - 1), in the type of images.
        Raises:
          UserError: H or W is not a positive multiple of d.
        """
        height, width = images.shape[1:3]
        if height % self.divisor or width % self.divisor or not height * width:
            raise UserError(
                f"images of {height}x{width} do not fit this ConvNeXt, which downsamples by {self.divisor};"
                f" use a height and a width that are multiples of {self.divisor}"
            )
        x = self.stem_norm(self.stem(images))
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downsamples[i - 1](x)
            for block in stage:
                x = block(x)
        return x

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, see TableModel. Raises UserError for a height or width that `features` does not take."""
        x = self.features(images)
        return self.classifier(self.head_norm(channel_means(x)))
