"""The authors' names for the variables of BNext (docs/spec.md, section 6)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from flax import nnx

from bnext_jax.io.names.entry import Entry, affine, norm
from bnext_jax.nn.variables import Temperature

if TYPE_CHECKING:
    from bnext_jax.models.bnext import BNext
    from bnext_jax.models.bnext18 import BNext18
    from bnext_jax.nn.bnext_units import BasicBlock, BinaryUnit


def _own(temperature):
    """The variable that the temperatures in a state dict fill. A unit or block alone has none: its caller passes a temperature."""
    return Temperature(np.ones((), np.float32)) if temperature is None else temperature


def unit(prefix: str, layer: "BinaryUnit", temperature: nnx.Variable | None = None) -> Iterator[Entry]:
    """Yields the entries of a unit. `temperature` is the variable of its network; None = the unit is alone."""
    temperature = _own(temperature)
    if layer.scale is not None:
        yield Entry(f"{prefix}scale", layer.scale, "channel")
    yield Entry(f"{prefix}move.bias", layer.shift, "channel")
    yield Entry(f"{prefix}binary_activation.temperature", temperature, "temperature")
    yield Entry(f"{prefix}binary_conv.weight", layer.conv.kernel, "conv")
    yield Entry(f"{prefix}binary_conv.temperature", temperature, "temperature")
    yield from norm(f"{prefix}norm1", layer.norm1)
    yield from norm(f"{prefix}norm2", layer.norm2)
    yield Entry(f"{prefix}activation1.weight", layer.activation1.slope, "same")
    yield Entry(f"{prefix}activation2.weight", layer.activation2.slope, "same")
    shortcut = getattr(layer, "shortcut", None)
    if shortcut is not None:
        yield from affine(f"{prefix}downsample.1", shortcut.conv, "conv")
        yield from norm(f"{prefix}downsample.2", shortcut.norm)
    if layer.gate is not None:
        yield from affine(f"{prefix}se.se.1", layer.gate.reduce, "gate")
        yield from affine(f"{prefix}se.se.3", layer.gate.expand, "gate")


def block(prefix: str, parts: "BasicBlock", temperature: nnx.Variable | None = None, elm_attention: bool = True) -> Iterator[Entry]:
    """Yields the entries of a block. `temperature` is the variable of its network; None = the block is alone."""
    temperature = _own(temperature)
    yield from unit(f"{prefix}{'Attention' if elm_attention else 'FFN_3x3'}.", parts.unit3x3, temperature)
    names = ("FFN",) if len(parts.units1x1) == 1 else ("FFN_1", "FFN_2")
    for name, layer in zip(names, parts.units1x1, strict=True):
        yield from unit(f"{prefix}{name}.", layer, temperature)


def bnext(prefix: str, model: "BNext") -> Iterator[Entry]:
    """Yields the entries of a BNext."""
    yield from affine("feature.0.conv1", model.stem.conv, "conv")
    yield from norm("feature.0.bn1", model.stem.norm)
    yield Entry("feature.0.prelu.weight", model.stem.prelu.slope, "same")
    for i, parts in enumerate(model.blocks, start=1):
        yield from block(f"feature.{i}.", parts, model.temperature, model.config.elm_attention)
    yield Entry("prelu.weight", model.prelu.slope, "same")
    yield from affine("fc", model.classifier, "linear")


def bnext18(prefix: str, model: "BNext18") -> Iterator[Entry]:
    """Yields the entries of a BNext-18."""
    yield from affine("conv1", model.conv, "conv")
    yield from norm("bn1", model.norm)
    for i, stage in enumerate(model.stages):
        for j, pair in enumerate(stage):
            yield from unit(f"layer{i}.{j}.Attention.", pair.attention, model.temperature)
            yield from unit(f"layer{i}.{j}.FFN.", pair.feed_forward, model.temperature)
    yield Entry("prelu.weight", model.prelu.slope, "same")
    yield from affine("fc", model.classifier, "linear")
