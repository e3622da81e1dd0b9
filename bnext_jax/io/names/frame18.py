"""The PyTorch names of the variables of the networks in the frame of ResNet: ResNet itself, BNN, XNOR-Net, Bi-Real Net, ReActNet.

ResNet's are those of torchvision and timm, the others' those of the reference implementations. BNN and XNOR-Net have torchvision's names
for ResNet-18, so names and shapes do not tell the three apart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnext_jax.io.names.entry import Entry, affine, classes, count, norm
from bnext_jax.models.base import default_stride
from bnext_jax.models.frame18 import WIDTHS

if TYPE_CHECKING:
    from bnext_jax.models import birealnet, bnn, reactnet, resnet, xnornet
    from bnext_jax.models.frame18 import Frame18
    from bnext_jax.nn.batch_norm import BatchNorm


def _shortcut(prefix: str, first: int, shortcut: Any) -> Iterator[Entry]:
    """The convolution is entry `first` of PyTorch's Sequential, the norm the next one."""
    if shortcut is not None:
        yield Entry(f"{prefix}downsample.{first}.weight", shortcut.conv.kernel, "conv")
        yield from norm(f"{prefix}downsample.{first + 1}", shortcut.norm)


def _convolutions(prefix: str, layers: Sequence[tuple[Any, "BatchNorm"]], shortcut: Any) -> Iterator[Entry]:
    """A block's convolutions and their norms, under torchvision's names."""
    for number, (conv, layer) in enumerate(layers, start=1):
        yield Entry(f"{prefix}conv{number}.weight", conv.kernel, "conv")
        yield from norm(f"{prefix}bn{number}", layer)
    yield from _shortcut(prefix, 0, shortcut)


def bnn_block(prefix: str, block: "bnn.Block") -> Iterator[Entry]:
    """Yields the entries of a block of a BNN."""
    yield from _convolutions(prefix, ((block.conv1, block.norm1), (block.conv2, block.norm2)), block.shortcut)


def xnornet_block(prefix: str, block: "xnornet.Block") -> Iterator[Entry]:
    """Yields the entries of a block of an XNOR-Net."""
    yield from _convolutions(prefix, [(unit.conv, unit.norm) for unit in (block.unit1, block.unit2)], block.shortcut)


def resnet_block(prefix: str, block: "resnet.Block") -> Iterator[Entry]:
    """Yields the entries of a block of a ResNet."""
    yield from _convolutions(prefix, [(unit.conv, unit.norm) for unit in block.units], block.shortcut)


def birealnet_block(prefix: str, block: "birealnet.Block") -> Iterator[Entry]:
    """Yields the entries of a block of a Bi-Real Net."""
    yield Entry(f"{prefix}binary_conv.weights", block.conv.kernel, "flat")
    yield from norm(f"{prefix}bn1", block.norm)
    yield from _shortcut(prefix, 1, block.shortcut)


def reactnet18_block(prefix: str, block: "reactnet.Block18") -> Iterator[Entry]:
    """Yields the entries of a block of a ReActNet-18."""
    yield Entry(f"{prefix}move0.bias", block.unit.shift, "channel")
    yield Entry(f"{prefix}binary_conv.weight", block.unit.conv.kernel, "conv")
    yield from norm(f"{prefix}bn1", block.unit.norm)
    yield Entry(f"{prefix}move1.bias", block.activation.before, "channel")
    yield Entry(f"{prefix}prelu.weight", block.activation.prelu.slope, "same")
    yield Entry(f"{prefix}move2.bias", block.activation.after, "channel")
    yield from _shortcut(prefix, 1, block.shortcut)


def network(block: Callable[..., Iterator[Entry]]) -> Callable[..., Iterator[Entry]]:
    """The rule of a whole network whose blocks have the rule `block`."""

    def entries(prefix: str, model: "Frame18") -> Iterator[Entry]:
        yield from affine(f"{prefix}conv1", model.conv, "conv")
        yield from norm(f"{prefix}bn1", model.norm)
        for i, stage in enumerate(model.stages, start=1):
            for j, one in enumerate(stage):
                yield from block(f"{prefix}layer{i}.{j}.", one)
        yield from affine(f"{prefix}fc", model.classifier, "linear")

    return entries


def recognise(tensors: Mapping[str, np.ndarray], depth: int) -> tuple[int, dict[str, Any]]:
    """Finds the arguments of a network in this frame.

    Args:
      tensors: {PyTorch name: array}.
      depth: the network's own number of blocks of a stage.
    Returns:
      (num_classes, arguments) for create_model.
    Raises:
      KeyError: a tensor is missing that tells the widths.
    """
    outputs = classes(tensors, "fc")
    widths = tuple(tensors[f"layer{i}.0.bn1.weight"].shape[0] for i in range(1, 1 + count(tensors, r"layer(\d+)\.", start=1)))
    if f"layer{len(widths)}.0.conv1.weight" in tensors:  # bn1 has the input's width in XNOR-Net's order norm_conv
        widths = tuple(tensors[f"layer{i}.0.conv1.weight"].shape[0] for i in range(1, 1 + len(widths)))
    stride = 2 if tensors["conv1.weight"].shape[-1] == 7 else 1
    found = {"widths": widths, "depth": count(tensors, r"layer1\.(\d+)\."), "stem_stride": stride}
    usual = {"widths": WIDTHS, "depth": depth, "stem_stride": default_stride(outputs)}
    return outputs, {key: value for key, value in found.items() if value != usual[key]}


def recognise_resnet(tensors: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
    """Finds the arguments of a ResNet, see recognise. A third convolution in its blocks tells bottlenecks."""
    outputs, arguments = recognise(tensors, 2)
    depths = tuple(count(tensors, rf"layer{i}\.(\d+)\.") for i in range(1, 1 + count(tensors, r"layer(\d+)\.", start=1)))
    blocks = {"depths": depths, "bottleneck": "layer1.0.conv3.weight" in tensors}
    return outputs, {**blocks, **{key: value for key, value in arguments.items() if key != "depth"}}


def recognise_xnornet(tensors: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
    """Finds the arguments of an XNOR-Net, see recognise. Its batch norms tell the order of its units."""
    outputs, arguments = recognise(tensors, 2)
    stages = range(1, 1 + count(tensors, r"layer(\d+)\.", start=1))
    first = any(tensors[f"layer{i}.0.bn1.weight"].shape[0] != tensors[f"layer{i}.0.conv1.weight"].shape[0] for i in stages)
    return outputs, {**arguments, "order": "norm_conv"} if first else arguments
