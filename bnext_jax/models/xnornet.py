"""XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279) in the frame of ResNet-18, as in a public port to PyTorch, or in the paper's order.

A block has one shortcut around two units. A unit in the port's order and in the paper's:

    conv_norm    BN(conv(sign(x)))      the port, and the default
    norm_conv    conv(sign(BN(x)))      the paper

The shortcut is x, or a unit with a 1x1 convolution where the shape changes; its convolution is real (the port: BN(conv1x1(x))) or binary.
The authors' scale of the input (a map of mean abs(x)) is in neither. Nothing follows the sum.

In the port's order the first block reads a map that went through a ReLU. There the sign is 0 or 1, never -1.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.frame18 import Frame18, Frame18Config
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.layers import Conv
from bnext_jax.nn.quantizers import SteSign
from bnext_jax.nn.weight_quantizers import XnorWeightScale

INPUT_QUANTIZER = SteSign(clip_value=1, inclusive=False)
AFTER_RELU = SteSign(clip_value=1, inclusive=False, levels=(0, 1))
KERNEL_QUANTIZER = XnorWeightScale(gradient="straight")
INITIALIZER = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "normal")  # Xavier's
ORDERS = ("conv_norm", "norm_conv")
binary_conv = functools.partial(  # (inputs, features, size, stride, rngs=)
    BinaryConv, input_quantizer=INPUT_QUANTIZER, kernel_quantizer=KERNEL_QUANTIZER, initializer=INITIALIZER
)
real_conv = functools.partial(Conv, initializer=INITIALIZER)


@dataclasses.dataclass(frozen=True)
class XnorNetConfig(Frame18Config):
    """The arguments of an XNOR-Net, see Frame18Config.

    Attributes:
      order: of a unit, "conv_norm" or "norm_conv", see the module.
      binary_shortcut: whether the 1x1 convolutions of the shortcuts are binary.
    Raises:
      UserError: another order.
    """

    order: str = "conv_norm"
    binary_shortcut: bool = False

    def check(self) -> None:
        """Raises UserError, see the class."""
        super().check()
        if self.order not in ORDERS:
            raise UserError(f"order is {self.order!r}; one of: {', '.join(ORDERS)}")


class Unit(nnx.Module):
    """A convolution and a batch norm, in one of ORDERS.

    Args:
      inputs: input channels.
      features: output channels.
      size: kernel side.
      stride: 1 or 2.
      norm_first: whether the batch norm comes before the sign.
      conv: makes the convolution, binary or real.
      rngs: random streams.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        size: int,
        stride: int,
        *,
        norm_first: bool,
        conv: Callable[..., BinaryConv | Conv],
        rngs: nnx.Rngs,
    ) -> None:
        self.norm_first = norm_first
        self.conv = conv(inputs, features, size, stride, rngs=rngs)
        self.norm = BatchNorm(inputs if norm_first else features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']."""
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))


class Block(nnx.Module):
    """y = unit2(unit1(x)) + shortcut(x). after_relu: whether the input is never negative. See the module for the formulas."""

    def __init__(
        self,
        inputs: int,
        features: int,
        stride: int,
        *,
        config: XnorNetConfig | None = None,
        after_relu: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        config = config or XnorNetConfig()
        first, conv = config.order == "norm_conv", config.staged(binary_conv)
        reads_relu = after_relu and not first
        conv1 = config.staged(functools.partial(binary_conv, input_quantizer=AFTER_RELU)) if reads_relu else conv
        self.unit1 = Unit(inputs, features, 3, stride, norm_first=first, conv=conv1, rngs=rngs)
        self.unit2 = Unit(features, features, 3, 1, norm_first=first, conv=conv, rngs=rngs)
        changes, conv1x1 = stride != 1 or inputs != features, conv if config.binary_shortcut else real_conv
        self.shortcut = Unit(inputs, features, 1, stride, norm_first=first, conv=conv1x1, rngs=rngs) if changes else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']."""
        return self.unit2(self.unit1(x)) + (x if self.shortcut is None else self.shortcut(x))


class XnorNet(Frame18):
    """XNOR-Net-18. A ReLU stands before the stem's max pool, and before the final pooling."""

    def __init__(self, config: XnorNetConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, num_classes, initializer=INITIALIZER, rngs=rngs)

    def make_block(self, inputs: int, features: int, stride: int, place: tuple[int, int], *, rngs: nnx.Rngs) -> Block:
        """See Frame18."""
        return Block(inputs, features, stride, config=self.config, after_relu=place == (0, 0), rngs=rngs)

    def stem(self, images: jax.Array) -> jax.Array:
        """See Frame18."""
        return self.pooled(jax.nn.relu(self.norm(self.conv(images))))

    def head(self, x: jax.Array) -> jax.Array:
        """See Frame18."""
        return jax.nn.relu(x)
