"""BNext-T, S, M and L: a real stem, binary blocks, a real head (SPEC section 1; paper, table 1)."""

import itertools

import jax.numpy as jnp
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.nn.bnext_units import BasicBlock
from bnext_jax.nn.layers import BatchNorm, Buffer, Conv, Linear, PReLU, Temperature, channel_means

# One entry per feature map: the stem's width, then each block's.
WIDTHS = {
    "bnext_tiny": (32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2),
    "bnext_small": (48, 96, *[192] * 2, *[384] * 2, *[768] * 6, *[1536] * 2),
    "bnext_middle": (48, 96, *[192] * 4, *[384] * 4, *[768] * 8, *[1536] * 4),
    "bnext_large": (64, 128, *[256] * 4, *[512] * 4, *[1024] * 16, *[2048] * 4),
}


def check_widths(widths):
    """Raises UserError unless each width equals the one before it or doubles it, and the first is at least 8."""
    steps_fit = all(after in (before, 2 * before) for before, after in itertools.pairwise(widths))
    if len(widths) < 2 or min(widths) < 8 or not steps_fit:
        raise UserError(
            f"widths {tuple(widths)} are not a BNext: give the stem's width (8 or more) and one width a block,"
            " each the same as the one before it or twice as large"
        )


def default_stride(num_classes):
    """The stem's stride by the reference's rule: 2 with 1000 classes, 1 otherwise."""
    return 2 if num_classes == 1000 else 1


class Stem(nnx.Module):
    """Real 3x3 convolution and batch norm, without activation; the state dict's PReLU there is never used."""

    def __init__(self, features, stride, *, bits=None, rngs):
        self.conv = Conv(3, features, 3, stride, weight_bits=bits, rngs=rngs)
        self.norm = BatchNorm(features)
        self.prelu = PReLU(features, slope=float(features), kind=Buffer)

    def __call__(self, images):
        """[N,H,W,3] -> ([N,H/stride,W/stride,C], its channel means [N,C])."""
        return self.norm.with_means(self.conv(images))


class BNext(nnx.Module):
    """The network.

    Args:
      widths: the stem's width, then one a block.
      num_classes: outputs of the classifier.
      stem_stride: 1 or 2; None = the reference's rule, 2 with 1000 classes and 1 otherwise.
      elm_attention, info_recoupling: the ablation's switches.
      gate_bits, stem_bits, classifier_bits: of the quantised edition's layers; None = float. Its published form has gates
        at 4 or 8 bit, stem and classifier at 8.
    Raises:
      UserError: widths that are no BNext.
    """

    def __init__(
        self,
        widths,
        num_classes=1000,
        *,
        stem_stride=None,
        elm_attention=True,
        info_recoupling=True,
        gate_bits=None,
        stem_bits=None,
        classifier_bits=None,
        rngs,
    ):
        check_widths(widths)
        stride = stem_stride or default_stride(num_classes)
        self.elm_attention = elm_attention
        self.stem = Stem(widths[0], stride, bits=stem_bits, rngs=rngs)
        blocks = []
        for i, (inputs, features) in enumerate(itertools.pairwise(widths), start=1):
            blocks.append(
                BasicBlock(
                    inputs,
                    features,
                    2 if features != inputs and i > 1 else 1,
                    elm_attention=elm_attention and i % 2 == 0,
                    info_recoupling=info_recoupling,
                    gate_bits=gate_bits,
                    rngs=rngs,
                )
            )
        self.blocks = nnx.List(blocks)
        self.prelu = PReLU(widths[-1])
        self.classifier = Linear(widths[-1], num_classes, bits=classifier_bits, rngs=rngs)
        self.temperature = Temperature(jnp.ones(()))

    def __call__(self, images, temperature=None):
        """Logits.

        Args:
          images: [N,H,W,3], normalised; their type is the type of the computation.
          temperature: scalar T of the binary weights; None = the network's own Temperature.
        Returns:
          [N, num_classes] in float32 (float64 for float64 images).
        Raises:
          UserError: a height or width that a stride cannot halve.
        """
        temperature = self.temperature[...] if temperature is None else temperature
        x, mean = self.stem(images)
        for block in self.blocks:
            x, mean = block.step(x, mean, temperature)
        return self.classifier(channel_means(self.prelu(x)))
