"""An entry pairs a variable of another program with a variable here. This module makes the entries of norms and of affine layers."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from flax import nnx

if TYPE_CHECKING:
    from bnext_jax.nn.batch_norm import BatchNorm
    from bnext_jax.nn.depthwise import DepthwiseConv
    from bnext_jax.nn.layers import Conv, Linear

ABSENT = "absent"  # the layout of a variable that the other program does not have: Entry.value when it is read, and not written


@dataclasses.dataclass(frozen=True)
class Entry:
    """One variable of another program.

    Attributes:
      name: its name there. An entry ABSENT has a name for messages only.
      variable: the variable that holds its values here.
      layout: a key of rules.LAYOUTS, which converts between the two layouts, or ABSENT.
      part: (i, n): it holds the i-th of n equal parts of the variable, along the last axis. All parts have entries, in order.
      value: the only value that fits, where the network here knows no other; None = any. An ABSENT variable gets it, or 0.
    """

    name: str
    variable: nnx.Variable
    layout: str
    part: tuple[int, int] = (0, 1)
    value: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor's values here."""
        return (*self.variable.shape[:-1], self.variable.shape[-1] // self.part[1]) if self.part[1] > 1 else tuple(self.variable.shape)

    def of(self, values: np.ndarray) -> np.ndarray:
        """The tensor's part of the variable's values, in our layout."""
        part, count = self.part
        return np.split(values, count, axis=-1)[part] if count > 1 else values


def norm(prefix: str, layer: "BatchNorm") -> Iterator[Entry]:
    """Yields the five entries of a batch norm.

    Args:
      prefix: the layer's name in PyTorch.
      layer: the batch norm here.
    """
    yield Entry(f"{prefix}.weight", layer.scale, "same")
    yield Entry(f"{prefix}.bias", layer.bias, "same")
    yield Entry(f"{prefix}.running_mean", layer.mean, "same")
    yield Entry(f"{prefix}.running_var", layer.var, "same")
    yield Entry(f"{prefix}.num_batches_tracked", layer.batches, "count")


def affine(prefix: str, layer: "Conv | Linear | DepthwiseConv", layout: str) -> Iterator[Entry]:
    """Yields the entries of a convolution or linear layer: the kernel and, if there are any, the bias and the quantizer's clip limits.

    Args:
      prefix: the layer's name in PyTorch.
      layer: the layer here.
      layout: the kernel's layout, a key of rules.LAYOUTS.
    """
    yield Entry(f"{prefix}.weight", layer.kernel, layout)
    if layer.bias is not None:
        yield Entry(f"{prefix}.bias", layer.bias, "same")
    quantizer = layer.quantizer
    if quantizer is not None:
        if quantizer.scale is not None:
            yield Entry(f"{prefix}.scale", quantizer.scale, "same")
        yield Entry(f"{prefix}.weight_clip_val", quantizer.weight_clip, "same")
        yield Entry(f"{prefix}.{'activation' if quantizer.scale is None else 'act'}_clip_val", quantizer.input_clip, "same")


def keras_norm(prefix: str, layer: "BatchNorm") -> Iterator[Entry]:
    """Yields the entries of a batch norm with Keras's names. Keras counts no batches.

    Args:
      prefix: the layer's name in Keras.
      layer: the batch norm here.
    """
    names = {"gamma": layer.scale, "beta": layer.bias, "moving_mean": layer.mean, "moving_variance": layer.var}
    for name, variable in names.items():
        yield Entry(f"{prefix}/{name}", variable, "same")
    yield Entry(f"{prefix}/batches", layer.batches, ABSENT)


def classes(tensors: Mapping[str, np.ndarray], layer: str) -> int:
    """The number of classes of a state dict, from the classifier's weight or bias. Raises KeyError if it has neither."""
    for leaf in ("weight", "bias"):
        if f"{layer}.{leaf}" in tensors:
            return tensors[f"{layer}.{leaf}"].shape[0]
    raise KeyError(f"{layer}.weight")


def count(names: Iterable[str], pattern: str, start: int = 0) -> int:
    """How many numbers there are from `start` to the largest that `pattern` captures at the beginning of a name; 0 if no name matches."""
    found = [int(match[1]) for match in map(re.compile(pattern).match, names) if match]
    return max(found, default=start - 1) - start + 1
