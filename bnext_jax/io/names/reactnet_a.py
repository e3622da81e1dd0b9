"""The authors' PyTorch names for the variables of ReActNet-A.

The weights of the 3x3 and 1x1 convolutions are columns `.weights` in the second, binary step of their training. In the first step, with
real weights, they are `.weight`, with PyTorch's axes.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnext_jax.io.names.entry import Entry, affine, classes, count, norm
from bnext_jax.models.reactnet import WIDTHS_A

if TYPE_CHECKING:
    from bnext_jax.models.reactnet import BlockA, ReActNetA
    from bnext_jax.nn.binary_conv import BinaryConv


def _kernel(name: str, conv: "BinaryConv") -> Entry:
    if conv.kernel_quantizer.bits == 1:
        return Entry(f"{name}.weights", conv.kernel, "flat")
    return Entry(f"{name}.weight", conv.kernel, "conv")


def block(prefix: str, one: "BlockA") -> Iterator[Entry]:
    """Yields the entries of a block."""
    yield Entry(f"{prefix}move11.bias", one.unit3x3.shift, "channel")
    yield _kernel(f"{prefix}binary_3x3", one.unit3x3.conv)
    yield from norm(f"{prefix}bn1", one.unit3x3.norm)
    yield Entry(f"{prefix}move12.bias", one.activation1.before, "channel")
    yield Entry(f"{prefix}prelu1.weight", one.activation1.prelu.slope, "same")
    yield Entry(f"{prefix}move13.bias", one.activation1.after, "channel")
    yield Entry(f"{prefix}move21.bias", one.shift, "channel")
    doubles = len(one.convs) == 2
    for number, (conv, layer) in enumerate(zip(one.convs, one.norms, strict=True), start=1):
        yield _kernel(f"{prefix}binary_pw{f'_down{number}' if doubles else ''}", conv)
        yield from norm(f"{prefix}bn2{f'_{number}' if doubles else ''}", layer)
    yield Entry(f"{prefix}move22.bias", one.activation2.before, "channel")
    yield Entry(f"{prefix}prelu2.weight", one.activation2.prelu.slope, "same")
    yield Entry(f"{prefix}move23.bias", one.activation2.after, "channel")


def network(prefix: str, model: "ReActNetA") -> Iterator[Entry]:
    """Yields the entries of a ReActNet-A."""
    yield from affine("feature.0.conv1", model.conv, "conv")
    yield from norm("feature.0.bn1", model.norm)
    for i, one in enumerate(model.blocks, start=1):
        yield from block(f"feature.{i}.", one)
    yield from affine("fc", model.classifier, "linear")


def recognise(tensors: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
    """Finds (num_classes, arguments) of a ReActNet-A. The stride of its stem does not show: it is the default.

    Raises:
      KeyError: a tensor is missing that tells the widths.
    """
    blocks = count(tensors, r"feature\.(\d+)\.") - 1
    widths = [tensors[f"feature.{i}.move11.bias"].shape[1] for i in range(1, 1 + blocks)]
    found = (*widths, tensors[f"feature.{blocks}.move23.bias"].shape[1])
    arguments: dict[str, Any] = {} if found == WIDTHS_A else {"widths": found}
    return classes(tensors, "fc"), {**arguments, "binary_weights": False} if "feature.1.binary_3x3.weight" in tensors else arguments
