"""Real-to-Binary (Martinez et al. 2020, arXiv 2003.11535) in the frame of ResNet-18, as in larq's zoo, and its strong baseline.

A half-block, of which a block has two:

    z = BN(x)
    c = conv3x3(sign(z))
    y = PReLU(c * g) + shortcut(x)          shortcut: x, or BN(real conv1x1(average pool(x))) where the shape changes
    g = sigmoid(W2 relu(W1 mean(z)))        Real-to-Binary: a gate that reads the real input of the convolution. W1: C to C/8
    g = h_i w_j k_c                         strong baseline: learned vectors over rows, columns and channels

No batch norm follows a convolution. All paddings are TensorFlow's, all PReLUs Keras's.
"""

import dataclasses
import functools
from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.frame18 import Frame18, Frame18Config
from bnext_jax.models.stages import Maker
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.layers import Linear, PReLU, spatial
from bnext_jax.nn.quantizers import SteSign
from bnext_jax.nn.shortcut import PooledShortcut
from bnext_jax.nn.weight_quantizers import SteWeightSign

INPUT_QUANTIZER = SteSign(clip_value=1, at_zero=1)
KERNEL_QUANTIZER = SteWeightSign(clip_value=1, bound=1.0)
GLOROT, HE = jax.nn.initializers.glorot_normal(), jax.nn.initializers.he_normal()
REDUCTION = 8
norm = functools.partial(BatchNorm, epsilon=1e-3, decay=0.99)
binary_conv = functools.partial(  # (inputs, features, size, stride, rngs=)
    BinaryConv, input_quantizer=INPUT_QUANTIZER, kernel_quantizer=KERNEL_QUANTIZER, padding="same", initializer=GLOROT
)


@dataclasses.dataclass(frozen=True)
class RealToBinaryConfig(Frame18Config):
    """The arguments of a Real-to-Binary network, see Frame18Config. A block has two convolutions.

    Raises:
      UserError: widths that are not divisible by 8.
    """

    def check(self) -> None:
        """Raises UserError, see the class."""
        super().check()
        odd = [width for width in self.widths if width % REDUCTION]
        if odd:
            raise UserError(f"widths {self.widths} do not divide by {REDUCTION}, as the gates need: {', '.join(map(str, odd))}")


@dataclasses.dataclass(frozen=True)
class StrongBaselineConfig(Frame18Config):
    """The arguments of a strong baseline, see Frame18Config. A block has two convolutions.

    Attributes:
      resolution: height and width of the images, in pixels. The learned vectors tie a network to one size.
    Raises:
      UserError: a resolution that a stage cannot halve.
    """

    resolution: int = 224

    def check(self) -> None:
        """Raises UserError, see the class."""
        super().check()
        if not 1 <= self.resolution <= 2**15:
            raise UserError(f"resolution is {self.resolution}; it is the side of an image in pixels")

    def resolved(self, num_classes: int) -> Self:
        """Fills in the stride of the stem. Returns a new config. Raises UserError, see the class."""
        found = super().resolved(num_classes)
        for stage in range(len(found.widths) - 1):
            if found.side(stage) % 2:
                side = f"{found.side(stage)}x{found.side(stage)}"
                raise UserError(f"resolution {self.resolution} gives maps of {side} pixels, which a stage cannot halve")
        return found

    def side(self, stage: int) -> int:
        """Height and width of a stage's maps, in pixels. A resolved config knows it."""
        return -(-self.resolution // (self.stem_factor * 2**stage))


class KerasPReLU(PReLU):
    """PReLU as Keras computes it: relu(x) - slope * relu(-x). Its derivative at exactly 0 is 0. The slopes start at 0."""

    def __init__(self, features: int) -> None:
        super().__init__(features, slope=0.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to [..., C]. The result has the shape and type of x."""
        return jax.nn.relu(x) - self.slope[...].astype(x.dtype) * jax.nn.relu(-x)


class DataGate(nnx.Module):
    """g = sigmoid(W2 relu(W1 mean)), from C channels to C', without biases."""

    def __init__(self, inputs: int, features: int, *, rngs: nnx.Rngs) -> None:
        options = {"decay": "weights", "edition_bits": 4, "bias": False, "initializer": HE}
        self.reduce = Linear(inputs, inputs // REDUCTION, rngs=rngs, **options)  # type: ignore[arg-type]
        self.expand = Linear(inputs // REDUCTION, features, rngs=rngs, **options)  # type: ignore[arg-type]

    def __call__(self, mean: jax.Array, c: jax.Array) -> jax.Array:
        """Maps channel means [N,C] to factors [N,1,1,C'] for a map c [N,H,W,C'], in its type."""
        return spatial(jax.nn.sigmoid(self.expand(jax.nn.relu(self.reduce(mean)))), c.dtype)


class LearnedScale(nnx.Module):
    """g = h_i w_j k_c, three learned vectors over rows, columns and channels, 1 at first."""

    def __init__(self, features: int, side: int) -> None:
        self.rows, self.columns = (nnx.Param(jnp.ones((side,)), decay="rest") for _ in range(2))
        self.channels = nnx.Param(jnp.ones((features,)), decay="rest")

    def __call__(self, mean: jax.Array, c: jax.Array) -> jax.Array:
        """Returns factors [H,W,C'] for a map c [N,H,W,C'], in its type. The channel means are not used.

        Raises:
          UserError: c has another size.
        """
        del mean
        made = self.rows.shape[0]
        if c.shape[1:3] != (made, made):
            raise UserError(
                f"this strong baseline was made for images of another size: it scales maps of {made}x{made}, and these images give"
                f" {c.shape[1]}x{c.shape[2]}; create it with the side of the images as its resolution"
            )
        return (self.rows[...][:, None, None] * self.columns[...][:, None] * self.channels[...]).astype(c.dtype)


class HalfBlock(nnx.Module):
    """One convolution with its gate. See the module for the formula.

    Args:
      inputs: input channels.
      features: output channels.
      stride: 1 or 2.
      side: of the output map in the strong baseline, in pixels; None makes a gate that reads the data.
      conv: makes the convolution.
      rngs: random streams.
    """

    def __init__(
        self, inputs: int, features: int, stride: int, *, side: int | None = None, conv: Maker = binary_conv, rngs: nnx.Rngs
    ) -> None:
        self.norm = norm(inputs)
        self.conv = conv(inputs, features, 3, stride, rngs=rngs)
        self.scale: DataGate | LearnedScale
        self.scale = DataGate(inputs, features, rngs=rngs) if side is None else LearnedScale(features, side)
        self.prelu = KerasPReLU(features)
        self.shortcut = PooledShortcut(inputs, features, norm=norm, initializer=GLOROT, rngs=rngs) if stride == 2 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C'].

        Raises:
          UserError: a side that the stride cannot halve, or a strong baseline for maps of another size.
        """
        shortcut = x if self.shortcut is None else self.shortcut(x)  # first, because it checks the sides
        z, mean = self.norm.with_means(x)
        c = self.conv(z)
        return self.prelu(c * self.scale(mean, c)) + shortcut


class Block(nnx.Module):
    """Two half-blocks. The first one has the stride and the widening. For the arguments see HalfBlock."""

    def __init__(self, inputs: int, features: int, stride: int, *, side: int | None, conv: Maker, rngs: nnx.Rngs) -> None:
        self.a = HalfBlock(inputs, features, stride, side=side, conv=conv, rngs=rngs)
        self.b = HalfBlock(features, features, 1, side=side, conv=conv, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/stride,W/stride,C']. Raises UserError, see HalfBlock."""
        return self.b(self.a(x))


class RealToBinary(Frame18):
    """Real-to-Binary: eight blocks of two half-blocks. A PReLU stands before the stem's max pool."""

    def __init__(self, config: RealToBinaryConfig | StrongBaselineConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(
            config, num_classes, padding="SAME", norm=norm, initializer=GLOROT,
            head_initializer=jax.nn.initializers.glorot_uniform(), rngs=rngs,
        )  # fmt: skip
        self.prelu = KerasPReLU(config.widths[0])

    def make_block(self, inputs: int, features: int, stride: int, place: tuple[int, int], *, rngs: nnx.Rngs) -> Block:
        """See Frame18."""
        side = self.config.side(place[0]) if isinstance(self.config, StrongBaselineConfig) else None
        return Block(inputs, features, stride, side=side, conv=self.config.staged(binary_conv), rngs=rngs)

    def stem(self, images: jax.Array) -> jax.Array:
        """See Frame18."""
        return self.pooled(self.prelu(self.norm(self.conv(images))))


class StrongBaseline(RealToBinary):
    """The strong baseline of the same paper: Real-to-Binary with learned vectors in place of the gates."""
