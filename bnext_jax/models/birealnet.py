"""Bi-Real Net (Liu et al. 2018, arXiv 1808.00278) in the frame of ResNet-18: one real shortcut around each binary convolution.

    y = BN(conv(sign(x))) + shortcut(x)     shortcut: x, or BN(real conv1x1(average pool(x))) where the shape changes

There is no activation function. As in the authors' code, the weights have a scale, and their gradient has none.
"""

import dataclasses
import functools

import jax
from flax import nnx

from bnext_jax.models.frame18 import Frame18, Frame18Config
from bnext_jax.models.stages import Maker
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.quantizers import ApproxSign
from bnext_jax.nn.shortcut import PooledShortcut
from bnext_jax.nn.weight_quantizers import MagnitudeAwareSign

INPUT_QUANTIZER = ApproxSign()
KERNEL_QUANTIZER = MagnitudeAwareSign(at_zero=0, scale_gradient=False)
INITIALIZER = jax.nn.initializers.uniform(1e-3)  # of [0, 0.001): all latent weights start positive
binary_conv = functools.partial(  # (inputs, features, size, stride, rngs=)
    BinaryConv, input_quantizer=INPUT_QUANTIZER, kernel_quantizer=KERNEL_QUANTIZER, initializer=INITIALIZER
)


@dataclasses.dataclass(frozen=True)
class BiRealNetConfig(Frame18Config):
    """The arguments of a Bi-Real Net, see Frame18Config. A block has one convolution."""

    depth: int = 4


class Block(nnx.Module):
    """A binary convolution with a real shortcut. `conv` makes the convolution. See the module for the formula."""

    def __init__(self, inputs: int, features: int, stride: int, *, conv: Maker = binary_conv, rngs: nnx.Rngs) -> None:
        self.conv = conv(inputs, features, 3, stride, rngs=rngs)
        self.norm = BatchNorm(features)
        self.shortcut = PooledShortcut(inputs, features, rngs=rngs) if stride == 2 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']. Raises UserError for a side that the stride cannot halve."""
        shortcut = x if self.shortcut is None else self.shortcut(x)  # first, because it checks the sides
        return self.norm(self.conv(x)) + shortcut


class BiRealNet(Frame18):
    """Bi-Real-18: sixteen blocks."""

    def make_block(self, inputs: int, features: int, stride: int, place: tuple[int, int], *, rngs: nnx.Rngs) -> Block:
        """See Frame18."""
        del place
        return Block(inputs, features, stride, conv=self.config.staged(binary_conv, initializer=None), rngs=rngs)
