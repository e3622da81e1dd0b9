"""ConvNeXt: patches, then stages of depthwise 7x7 blocks with layer norm and layer scale, downsampled in between."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig
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
      widths, depths: channels and number of blocks, one each a stage.
      patch: side in pixels of the squares that the stem turns into positions.
      layer_scale: gamma at first.
    Raises:
      UserError: widths and depths that do not match.
    """

    widths: tuple[int, ...] = SIZES["convnext_tiny"]["widths"]
    depths: tuple[int, ...] = SIZES["convnext_tiny"]["depths"]
    patch: int = PATCH
    layer_scale: float = 1e-6

    def check(self):
        """Raises UserError, see the class."""
        if not self.widths or len(self.widths) != len(self.depths) or min(*self.widths, *self.depths) < 1:
            raise UserError(
                f"widths {self.widths} and depths {self.depths} are not a ConvNeXt: give one positive width and one"
                " positive depth for each of one or more stages"
            )


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(var + 1e-6) * scale + bias over the last axis, var biased; computed in at least float32."""

    def __init__(self, features):
        self.scale = nnx.Param(jnp.ones((features,)), decay="rest")
        self.bias = nnx.Param(jnp.zeros((features,)), decay="rest")

    def __call__(self, x):
        """[..., C] -> [..., C], the type of x."""
        y = x.astype(accumulation_dtype(x.dtype))
        y = y - y.mean(-1, keepdims=True)
        y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + EPSILON)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class Block(nnx.Module):
    """x + gamma * linear(gelu(linear(norm(depthwise 7x7(x))))), C -> 4C -> C, gamma one factor per channel."""

    def __init__(self, features, layer_scale, *, rngs):
        self.depthwise = DepthwiseConv(features, KERNEL, bias=True, rngs=rngs)
        self.norm = LayerNorm(features)
        self.expand = Linear(features, EXPANSION * features, rngs=rngs)
        self.project = Linear(EXPANSION * features, features, rngs=rngs)
        self.gamma = nnx.Param(jnp.full((features,), layer_scale), decay="rest")

    def __call__(self, x):
        """[N,H,W,C] -> [N,H,W,C], the type of x."""
        y = self.expand(self.norm(self.depthwise(x)))
        y = self.project(jax.nn.gelu(y, approximate=False))
        return x + y * self.gamma[...].astype(x.dtype)


class Downsample(nnx.Module):
    """Layer norm, then a 2x2 convolution with stride 2."""

    def __init__(self, inputs, features, *, rngs):
        self.norm = LayerNorm(inputs)
        self.conv = Conv(inputs, features, 2, 2, padding=0, bias=True, rngs=rngs)

    def __call__(self, x):
        """[N,H,W,inputs] -> [N,H/2,W/2,features], the type of x."""
        return self.conv(self.norm(x))


class ConvNeXt(nnx.Module):
    """The network.

    Args:
      config: ConvNeXtConfig.
      num_classes: outputs of the classifier.
    """

    def __init__(self, config, num_classes, *, rngs):
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

    def features(self, images):
        """The last map, before pooling and the head's norm: [N,H,W,3] -> [N,H',W',C], the type of images.

        H' = H / (patch * 2^(stages - 1)), W' likewise. Raises UserError where that divides H or W unevenly.
        """
        height, width = images.shape[1:3]
        if height % self.divisor or width % self.divisor or not height * width:
            raise UserError(
                f"images of {height}x{width} do not divide into the {self.divisor}x{self.divisor} pixels behind one"
                f" position of this ConvNeXt's last map; use a height and a width that are multiples of {self.divisor}"
            )
        x = self.stem_norm(self.stem(images))
        for i, stage in enumerate(self.stages):
            if i:
                x = self.downsamples[i - 1](x)
            for block in stage:
                x = block(x)
        return x

    def __call__(self, images, temperature=None):
        """Logits.

        Args:
          images: [N,H,W,3], normalised; their type is the type of the computation.
          temperature: ignored; every network has this signature.
        Returns:
          [N, num_classes] in float32 (float64 for float64 images).
        Raises:
          UserError: a height or width that the patches and the stages' halvings do not divide.
        """
        x = self.features(images)
        return self.classifier(self.head_norm(channel_means(x)))
