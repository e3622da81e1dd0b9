"""BNN (Hubara et al. 2016, arXiv 1602.02830) in the frame of ResNet-18, as in the authors' code for ImageNet.

A block has one shortcut around two binary convolutions, and hard tanh where other networks have none or a ReLU:

    h = hard_tanh(BN1(conv(sign(x))))
    y = hard_tanh(BN2(conv(sign(h)) + shortcut(x)))     shortcut: x, or BN(binary conv1x1(sign(x))) where the shape changes

The stem and the classifier are real-valued. The authors' code binarizes them too, and its ImageNet class does not run as published.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.models.frame18 import Frame18, Frame18Config
from bnext_jax.models.stages import Maker
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.quantizers import SteSign
from bnext_jax.nn.weight_quantizers import SteWeightSign

INPUT_QUANTIZER = SteSign(clip_value=float("inf"))  # hard_tanh has the mask
KERNEL_QUANTIZER = SteWeightSign(clip_value=float("inf"), at_zero=0, bound=1.0)
INITIALIZER = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
binary_conv = functools.partial(  # (inputs, features, size, stride, rngs=)
    BinaryConv, input_quantizer=INPUT_QUANTIZER, kernel_quantizer=KERNEL_QUANTIZER, initializer=INITIALIZER
)


@dataclasses.dataclass(frozen=True)
class BnnConfig(Frame18Config):
    """The arguments of a BNN, see Frame18Config."""


def hard_tanh(x: jax.Array) -> jax.Array:
    """clip(x, -1, 1). Its derivative is 1 inside and 0 at the limits and outside, as in PyTorch."""
    return jnp.where(jnp.abs(x) < 1, x, jnp.sign(x))


class Shortcut(nnx.Module):
    """The binary shortcut: BN(conv1x1(sign(x)))."""

    def __init__(self, inputs: int, features: int, stride: int, *, conv: Maker, rngs: nnx.Rngs) -> None:
        self.conv = conv(inputs, features, 1, stride, rngs=rngs)
        self.norm = BatchNorm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']."""
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """Two binary convolutions with one shortcut. `conv` makes the convolutions. See the module for the formula."""

    def __init__(self, inputs: int, features: int, stride: int, *, conv: Maker = binary_conv, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(inputs, features, 3, stride, rngs=rngs)
        self.norm1 = BatchNorm(features)
        self.conv2 = conv(features, features, 3, rngs=rngs)
        self.norm2 = BatchNorm(features)
        changes = stride != 1 or inputs != features
        self.shortcut = Shortcut(inputs, features, stride, conv=conv, rngs=rngs) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,C] in [-1, 1] to [N,H/stride,W/stride,C'] in [-1, 1]."""
        h = hard_tanh(self.norm1(self.conv1(x)))
        return hard_tanh(self.norm2(self.conv2(h) + (x if self.shortcut is None else self.shortcut(x))))


class Bnn(Frame18):
    """BNN-18. The stem is conv, max pool, batch norm, hard tanh, in this order."""

    def make_block(self, inputs: int, features: int, stride: int, place: tuple[int, int], *, rngs: nnx.Rngs) -> Block:
        """See Frame18."""
        del place
        return Block(inputs, features, stride, conv=self.config.staged(binary_conv), rngs=rngs)

    def stem(self, images: jax.Array) -> jax.Array:
        """See Frame18."""
        return hard_tanh(self.norm(self.pooled(self.conv(images))))
