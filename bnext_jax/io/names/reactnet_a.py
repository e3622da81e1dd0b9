"""The authors' PyTorch names for the variables of ReActNet-A."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnext_jax.io.names.entry import Entry, affine, classes, count, norm
from bnext_jax.models.reactnet import WIDTHS_A

if TYPE_CHECKING:
    from bnext_jax.models.reactnet import BlockA, ReActNetA


def block(prefix: str, one: "BlockA") -> Iterator[Entry]:
    """Yields the entries of a block."""
    yield Entry(f"{prefix}move11.bias", one.unit3x3.shift, "channel")
    yield Entry(f"{prefix}binary_3x3.weights", one.unit3x3.conv.kernel, "flat")
    yield from norm(f"{prefix}bn1", one.unit3x3.norm)
    yield Entry(f"{prefix}move12.bias", one.activation1.before, "channel")
    yield Entry(f"{prefix}prelu1.weight", one.activation1.prelu.slope, "same")
    yield Entry(f"{prefix}move13.bias", one.activation1.after, "channel")
    yield Entry(f"{prefix}move21.bias", one.shift, "channel")
    doubles = len(one.convs) == 2
    for number, (conv, layer) in enumerate(zip(one.convs, one.norms, strict=True), start=1):
        yield Entry(f"{prefix}binary_pw{f'_down{number}' if doubles else ''}.weights", conv.kernel, "flat")
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
    return classes(tensors, "fc"), {} if found == WIDTHS_A else {"widths": found}
