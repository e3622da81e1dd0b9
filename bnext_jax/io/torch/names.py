"""PyTorch's name and layout for every variable of the networks (docs/spec.md, section 6)."""

import numpy as np
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io.torch import teacher_names
from bnext_jax.io.torch.entry import Entry, affine, norm
from bnext_jax.models.bnext import BNext
from bnext_jax.models.bnext18 import BNext18
from bnext_jax.models.convnext import ConvNeXt
from bnext_jax.models.efficientnet import EfficientNet
from bnext_jax.nn import bnext_units, layers

COUNT = "count"  # the layout of num_batches_tracked
# layout -> (JAX to PyTorch, PyTorch to JAX), functions of numpy arrays. Comments: axes in JAX, axes in PyTorch
LAYOUTS = {
    "same": (lambda a: a, lambda a: a),
    "conv": (lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0)),  # HWIO, OIHW
    "linear": (lambda a: a.T, lambda a: a.T),  # IO, OI
    "gate": (lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T),  # IO, OI11
    "channel": (lambda a: a[None, :, None, None], lambda a: a[0, :, 0, 0]),  # C, 1C11
    COUNT: (lambda a: a.astype(np.int64), lambda a: a.astype(np.int32)),
    "temperature": (lambda a: a.reshape(1), lambda a: a.reshape(())),
}


def _unit(prefix, unit, temperature):
    if unit.scale is not None:
        yield Entry(f"{prefix}scale", unit.scale, "channel")
    yield Entry(f"{prefix}move.bias", unit.shift, "channel")
    yield Entry(f"{prefix}binary_activation.temperature", temperature, "temperature")
    yield Entry(f"{prefix}binary_conv.weight", unit.conv.kernel, "conv")
    yield Entry(f"{prefix}binary_conv.temperature", temperature, "temperature")
    yield from norm(f"{prefix}norm1", unit.norm1)
    yield from norm(f"{prefix}norm2", unit.norm2)
    yield Entry(f"{prefix}activation1.weight", unit.activation1.slope, "same")
    yield Entry(f"{prefix}activation2.weight", unit.activation2.slope, "same")
    shortcut = getattr(unit, "shortcut", None)
    if shortcut is not None:
        yield from affine(f"{prefix}downsample.1", shortcut.conv, "conv")
        yield from norm(f"{prefix}downsample.2", shortcut.norm)
    if unit.gate is not None:
        yield from affine(f"{prefix}se.se.1", unit.gate.reduce, "gate")
        yield from affine(f"{prefix}se.se.3", unit.gate.expand, "gate")


def _block(prefix, block, temperature, elm_attention=True):
    yield from _unit(f"{prefix}{'Attention' if elm_attention else 'FFN_3x3'}.", block.unit3x3, temperature)
    names = ("FFN",) if len(block.units1x1) == 1 else ("FFN_1", "FFN_2")
    for name, unit in zip(names, block.units1x1, strict=True):
        yield from _unit(f"{prefix}{name}.", unit, temperature)


def _bnext(prefix, model, _):
    yield from affine("feature.0.conv1", model.stem.conv, "conv")
    yield from norm("feature.0.bn1", model.stem.norm)
    yield Entry("feature.0.prelu.weight", model.stem.prelu.slope, "same")
    for i, block in enumerate(model.blocks, start=1):
        yield from _block(f"feature.{i}.", block, model.temperature, model.config.elm_attention)
    yield Entry("prelu.weight", model.prelu.slope, "same")
    yield from affine("fc", model.classifier, "linear")


def _bnext18(prefix, model, _):
    yield from affine("conv1", model.conv, "conv")
    yield from norm("bn1", model.norm)
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            yield from _unit(f"layer{i}.{j}.Attention.", block.attention, model.temperature)
            yield from _unit(f"layer{i}.{j}.FFN.", block.feed_forward, model.temperature)
    yield Entry("prelu.weight", model.prelu.slope, "same")
    yield from affine("fc", model.classifier, "linear")


RULES = {
    BNext: _bnext,
    BNext18: _bnext18,
    EfficientNet: teacher_names.efficientnet,
    ConvNeXt: teacher_names.convnext,
    bnext_units.BasicBlock: _block,
    bnext_units.BinaryFeedForward: _unit,
    bnext_units.ElmAttention: _unit,
    bnext_units.ElmAttention18: _unit,
}


def entries(module: nnx.Module) -> list[Entry]:
    """The entries of all tensors in a module's PyTorch state dict, in PyTorch's order.

    Args:
      module: a network, or a block or unit of nn.bnext_units.
    Raises:
      UserError: the module has no PyTorch counterpart.
    """
    if type(module) not in RULES:
        raise UserError(f"no PyTorch names are known for {type(module).__name__}")
    temperature = getattr(module, "temperature", None)
    if temperature is None:  # a unit or block has no temperature of its own; its caller passes one
        temperature = layers.Temperature(np.ones((), np.float32))
    return list(RULES[type(module)]("", module, temperature))
