"""MeliusNet: each block is a Dense block, which adds channels, and an Improvement block, which improves the added channels.

See Bethge et al. 2020, arXiv 2001.05936, figures 2 and 3. The number in a name is the number of blocks plus 5. The accuracies of the
paper are those of the grouped stem. There are two reference implementations, and they differ: see VARIANTS.
"""

import dataclasses
import itertools
import math
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import glorot_normal, variance_scaling

from bnext_jax.errors import UserError
from bnext_jax.models.base import NetworkConfig, TableModel, default_stride
from bnext_jax.nn.batch_norm import NORM_DECAY, BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.layers import Conv, Initializer, Linear, channel_means, max_pool
from bnext_jax.nn.quantizers import SteSign
from bnext_jax.nn.weight_quantizers import SteWeightSign

DEFAULT_STEMS = {2: "grouped", 1: "cifar"}  # by models.base.default_stride
SIZES: dict[str, dict[str, Any]] = {
    "meliusnet22": {"blocks": (4, 5, 4, 4), "transitions": (160, 224, 256)},
    "meliusnet23": {"blocks": (2, 4, 6, 6), "transitions": (128, 192, 288), "shuffle_groups": 16, "conv_groups": 8},
    "meliusnet29": {"blocks": (4, 6, 8, 6), "transitions": (128, 192, 256)},
    "meliusnet42": {"blocks": (5, 8, 14, 10), "transitions": (160, 256, 416)},
    "meliusnet59": {"blocks": (6, 12, 24, 12), "transitions": (192, 320, 544)},
    "meliusnet_a": {"blocks": (4, 5, 5, 6), "transitions": (160, 256, 288), "shuffle_groups": 16, "conv_groups": 4},
    "meliusnet_b": {"blocks": (4, 6, 8, 6), "transitions": (160, 224, 320), "shuffle_groups": 16, "conv_groups": 2},
    "meliusnet_c": {"blocks": (3, 5, 10, 6), "transitions": (128, 192, 288), "shuffle_groups": 16, "conv_groups": 4},
}


class Variant(NamedTuple):
    """What differs between the reference implementations."""

    signs: SteSign
    weights: SteWeightSign
    pad_value: float  # of the binary convolutions
    padding: Literal["SAME"] | None  # of the real convolutions; and of the max pools of the transitions, where None means 0
    stem_pool: tuple[Any, ...]  # size, stride and padding
    stem_decay: float  # of the running statistics
    initializer: Initializer  # of the latent weights


XAVIER = variance_scaling(1.0, "fan_avg", "normal")  # not truncated, as in PyTorch
VARIANTS = {
    # The library of the authors. In its stem PyTorch's momentum is 0.9: the new running statistics are 0.1 old + 0.9 batch.
    "bitorch": Variant(SteSign(1.0, at_zero=1.0), SteWeightSign(math.inf), -1, None, (3, 2, 1), 1 - NORM_DECAY, XAVIER),
    "larq": Variant(SteSign(1.3, at_zero=1.0), SteWeightSign(1.3, bound=1.3), 0, "SAME", (2, 2, "SAME"), NORM_DECAY, glorot_normal()),
}


@dataclasses.dataclass(frozen=True)
class MeliusNetConfig(NetworkConfig):
    """The arguments of a MeliusNet.

    Attributes:
      blocks, transitions: number of blocks of each stage; channels after each stage but the last.
      growth, stem_width: channels that a Dense block adds; channels of the stem.
      shuffle_groups, conv_groups: groups of the channel shuffle and of the convolution in a transition; 1 = none.
      stem: "grouped": three 3x3 convolutions, the first one with stride 2, and a max pool; "imagenet": a 7x7 convolution with stride 2,
          and a max pool; "cifar": one 3x3 convolution. None means "grouped" with 1000 classes, else "cifar".
      stem_pool: False leaves out the stem's max pool, for small images. The stem "cifar" has none.
      variant: the reference implementation, a key of VARIANTS.
      pad_value: value of the padded pixels of the binary convolutions, -1, 0 or 1. None means that of the variant.
    Raises:
      UserError: values that do not make a MeliusNet.
    """

    blocks: tuple[int, ...]
    transitions: tuple[int, ...]
    growth: int = 64
    stem_width: int = 64
    shuffle_groups: int = 1
    conv_groups: int = 1
    stem: str | None = None
    variant: str = "bitorch"
    pad_value: float | None = None
    stem_pool: bool = True

    def check(self) -> None:
        """Raises UserError, see the class."""
        for name in ("blocks", "transitions", "growth", "stem_width", "shuffle_groups", "conv_groups"):
            value = getattr(self, name)
            numbers = value if name in ("blocks", "transitions") else (value,)
            if not all(n > 0 for n in numbers):
                raise UserError(f"a MeliusNet's {name} is {value!r}; give positive whole numbers")
        if len(self.transitions) != len(self.blocks) - 1:
            raise UserError(f"a MeliusNet has one transition fewer than stages; got blocks {self.blocks}, transitions {self.transitions}")
        choices = {"stem": (None, "grouped", "imagenet", "cifar"), "variant": tuple(VARIANTS), "pad_value": (None, -1, 0, 1)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"a MeliusNet's {name} is {getattr(self, name)!r}; one of: {', '.join(map(str, known))}")
        if self.stem == "grouped" and self.stem_width % 16:
            raise UserError(f"stem_width is {self.stem_width}; the grouped stem needs a multiple of 16")
        for (_, inputs), features in zip(self.stages, self.transitions, strict=False):
            if inputs % self.shuffle_groups or inputs % self.conv_groups or features % self.conv_groups:
                told = f"shuffle_groups {self.shuffle_groups} and conv_groups {self.conv_groups}"
                raise UserError(f"{told} do not divide the channels of a transition from {inputs} to {features}; change one of them")

    @property
    def stages(self) -> list[tuple[int, int]]:
        """Channels at the start and at the end of each stage."""
        starts = (self.stem_width, *self.transitions)
        return [(start, start + depth * self.growth) for start, depth in zip(starts, self.blocks, strict=True)]

    def resolved(self, num_classes: int) -> Self:
        """Fills in the stem and the value of padded pixels. Returns a new config."""
        pad_value = VARIANTS[self.variant].pad_value if self.pad_value is None else self.pad_value
        return dataclasses.replace(self, stem=self.stem or DEFAULT_STEMS[default_stride(num_classes)], pad_value=pad_value)


class Block(nnx.Module):
    """A Dense block and an Improvement block. `inputs` is a number of channels, `config` is resolved."""

    def __init__(self, inputs: int, config: MeliusNetConfig, *, rngs: nnx.Rngs) -> None:
        self.config, v, growth = config, VARIANTS[config.variant], config.growth
        rules: dict[str, Any] = {"input_quantizer": v.signs, "kernel_quantizer": v.weights, "pad_value": config.pad_value}
        self.dense_norm = BatchNorm(inputs)
        self.dense_conv = BinaryConv(inputs, growth, 3, **rules, initializer=v.initializer, rngs=rngs)
        self.improvement_norm = BatchNorm(inputs + growth)
        self.improvement_conv = BinaryConv(inputs + growth, growth, 3, **rules, initializer=v.initializer, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,H,W,inputs + growth], in the type of x. The new channels are the last ones."""
        x = jnp.concatenate([x, self.dense_conv(self.dense_norm(x))], axis=-1)
        old, new = jnp.split(x, [x.shape[-1] - self.config.growth], axis=-1)
        return jnp.concatenate([old, new + self.improvement_conv(self.improvement_norm(x))], axis=-1)


class Transition(nnx.Module):
    """BN, 2x2 max pool with stride 2, ReLU, channel shuffle, real 1x1 convolution."""

    def __init__(self, inputs: int, features: int, config: MeliusNetConfig, *, rngs: nnx.Rngs) -> None:
        v = VARIANTS[config.variant]
        self.padding, self.shuffle_groups = v.padding or 0, config.shuffle_groups
        self.norm = BatchNorm(inputs)
        self.conv = Conv(inputs, features, 1, groups=config.conv_groups, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [N,H,W,inputs] to [N,H/2,W/2,features], in the type of x. Odd sides: bitorch rounds down, larq up."""
        x = jax.nn.relu(max_pool(self.norm(x), 2, 2, self.padding))
        # Output channel groups * j + i of the shuffle is input channel (C / groups) * i + j.
        return self.conv(x.reshape(*x.shape[:-1], self.shuffle_groups, -1).swapaxes(-1, -2).reshape(x.shape))


class Stem(nnx.Module):
    """Real convolutions, each with BN and ReLU, then a max pool; the stem "cifar" is a convolution alone. See MeliusNetConfig."""

    def __init__(self, config: MeliusNetConfig, *, rngs: nnx.Rngs) -> None:
        v, width, half = VARIANTS[config.variant], config.stem_width, config.stem_width // 2
        layers = [(3, width, 7, 2, 1)] if config.stem == "imagenet" else [(3, width, 3, 1, 1)]  # inputs, features, size, stride, groups
        if config.stem == "grouped":
            layers = [(3, half, 3, 2, 1), (half, half, 3, 1, 4), (half, width, 3, 1, 8)]
        convs = [Conv(*sides, groups=groups, padding=v.padding, rngs=rngs) for *sides, groups in layers]
        norms = [BatchNorm(features, decay=v.stem_decay) for _, features, *_ in layers if config.stem != "cifar"]
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        self.pool = v.stem_pool if config.stem_pool else None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [N,H,W,3] to [N,H/4,W/4,stem_width]; without a pool to H/2, W/2; the stem "cifar" to [N,H,W,stem_width]."""
        if not self.norms:
            return self.convs[0](images)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            images = jax.nn.relu(norm(conv(images)))
        return max_pool(images, *self.pool) if self.pool else images


class MeliusNet(TableModel):
    """A MeliusNet with `num_classes` outputs. Its parameters are drawn from the stream "params" of rngs."""

    def __init__(self, config: MeliusNetConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.config = config = config.resolved(num_classes)
        (*ends, last), inputs = [end for _, end in config.stages], [range(*stage, config.growth) for stage in config.stages]
        self.stem = Stem(config, rngs=rngs)
        self.stages = nnx.List([nnx.List([Block(channels, config, rngs=rngs) for channels in stage]) for stage in inputs])
        self.transitions = nnx.List([Transition(*sides, config, rngs=rngs) for sides in zip(ends, config.transitions, strict=True)])
        self.norm = BatchNorm(last)
        self.classifier = Linear(last, num_classes, rngs=rngs)

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        return (1 if not self.stem.norms else 4 if self.stem.pool else 2) * 2 ** len(self.transitions)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, see TableModel. Raises UserError for images that are smaller than total_stride."""
        (height, width), least = images.shape[1:3], self.total_stride
        if min(height, width) < least:
            raise UserError(
                f"images of {height}x{width} are too small for this MeliusNet, which downsamples by {least}; use {least} pixels or more"
            )
        x = self.stem(images)
        for stage, transition in itertools.zip_longest(self.stages, self.transitions):
            for block in stage:
                x = block(x)
            x = x if transition is None else transition(x)
        return self.classifier(channel_means(jax.nn.relu(self.norm(x))))
