"""An entry pairs a tensor of another program with a variable here. This module makes the entries of norms and of affine layers."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from flax import nnx

if TYPE_CHECKING:
    from bnext_jax.nn.batch_norm import BatchNorm
    from bnext_jax.nn.depthwise import DepthwiseConv
from bnext_jax.nn.layers import Conv, Linear


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of another program's network.

    Attributes:
      name: the tensor's name in that program.
      variable: the variable that holds its values here.
      layout: a key of names.LAYOUTS, which converts between the two layouts.
      part: (i, n): the tensor is the i-th of n equal parts of the variable, along the last axis. All parts have entries, in order.
    """

    name: str
    variable: nnx.Variable
    layout: str
    part: tuple[int, int] = (0, 1)

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


def keras_norm(prefix: str, layer: "BatchNorm") -> Iterator[Entry]:
    """Yields the four entries of a batch norm in Keras, which counts no batches.

    Args:
      prefix: the layer's name in Keras.
      layer: the batch norm here.
    """
    yield Entry(f"{prefix}/gamma", layer.scale, "same")
    yield Entry(f"{prefix}/beta", layer.bias, "same")
    yield Entry(f"{prefix}/moving_mean", layer.mean, "same")
    yield Entry(f"{prefix}/moving_variance", layer.var, "same")


def affine(prefix: str, layer: "Conv | Linear | DepthwiseConv", layout: str) -> Iterator[Entry]:
    """Yields the entries of a convolution or linear layer: the kernel and, if there are any, the bias and the quantizer's clip limits.

    Args:
      prefix: the layer's name in PyTorch.
      layer: the layer here.
      layout: the kernel's layout, a key of names.LAYOUTS.
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
