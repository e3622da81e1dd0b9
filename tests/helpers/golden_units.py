"""Builds the unit of a reference output of the folder units."""

import re

from flax import nnx

from bnext_jax.nn import bnext_units


def build(unit, arrays):
    """Builds the unit that meta["unit"] names. The shapes in the file give its number of channels."""
    shapes = dict(zip(map(str, arrays["names"]), arrays["shapes"], strict=True))
    rngs = nnx.Rngs(0)
    stride = 2 if "_s2" in unit else 1
    recoupling = "no_recoupling" not in unit

    def conv(prefix=""):
        out, inputs, *_ = map(int, re.findall(r"\d+", str(shapes[f"{prefix}binary_conv.weight"])))
        return inputs, out

    if unit.startswith("block"):
        inputs = conv("Attention.")[0]
        features = 2 * inputs if "widen" in unit else inputs
        return bnext_units.BasicBlock(inputs, features, stride, elm_attention=unit.endswith("elm"), info_recoupling=recoupling, rngs=rngs)
    inputs, features = conv()
    if unit.startswith("bnext18_attention"):
        return bnext_units.ElmAttention18(inputs, features, stride, rngs=rngs)
    if unit.startswith("elm_attention"):
        return bnext_units.ElmAttention(inputs, stride, info_recoupling=recoupling, rngs=rngs)
    size = 1 if "ffn1x1" in unit else 3
    quantizer = {"kernel_quantizer": bnext_units.KERNEL_QUANTIZER_18} if unit.startswith("bnext18") else {}
    return bnext_units.BinaryFeedForward(inputs, size, stride, info_recoupling=recoupling, rngs=rngs, **quantizer)
