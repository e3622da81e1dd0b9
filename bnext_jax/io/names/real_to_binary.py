"""larq zoo's Keras names for the variables of Real-to-Binary and of its strong baseline: LAYER/WEIGHT, without ":0".

The stem is block 1. The blocks follow, each with the halves a and b; the classifier has the last number.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnext_jax.io.names.entry import Entry, count, keras_norm
from bnext_jax.models.base import default_stride
from bnext_jax.models.frame18 import WIDTHS

if TYPE_CHECKING:
    from bnext_jax.models.real_to_binary import HalfBlock, RealToBinary

ROOT = "r2b_bnn_block_"


def half_block(prefix: str, half: "HalfBlock") -> Iterator[Entry]:
    """Yields the entries of a half-block."""
    yield from keras_norm(f"{prefix}batch_norm", half.norm)
    yield Entry(f"{prefix}conv2d/kernel", half.conv.kernel, "same")
    scale: Any = half.scale
    if hasattr(scale, "reduce"):
        yield Entry(f"{prefix}scaling_dense_reduce/kernel", scale.reduce.kernel, "same")
        yield Entry(f"{prefix}scaling_dense_expand/kernel", scale.expand.kernel, "same")
    else:
        yield Entry(f"{prefix}rescale/scale_h", scale.rows, "rows")
        yield Entry(f"{prefix}rescale/scale_w", scale.columns, "columns")
        yield Entry(f"{prefix}rescale/scale_c", scale.channels, "last")
    yield Entry(f"{prefix}prelu/alpha", half.prelu.slope, "last")
    if half.shortcut is not None:
        yield Entry(f"{prefix}shortcut_conv2d/kernel", half.shortcut.conv.kernel, "same")
        yield from keras_norm(f"{prefix}shortcut_batch_norm", half.shortcut.norm)


def network(prefix: str, model: "RealToBinary") -> Iterator[Entry]:
    """Yields the entries of a Real-to-Binary network or a strong baseline."""
    yield Entry(f"{ROOT}1_conv2d/kernel", model.conv.kernel, "same")
    yield from keras_norm(f"{ROOT}1_batch_norm", model.norm)
    yield Entry(f"{ROOT}1_prelu/alpha", model.prelu.slope, "last")
    blocks: list[Any] = [block for stage in model.stages for block in stage]
    for number, block in enumerate(blocks, start=2):
        yield from half_block(f"{ROOT}{number}a_", block.a)
        yield from half_block(f"{ROOT}{number}b_", block.b)
    yield Entry(f"{ROOT}{len(blocks) + 2}_logits/kernel", model.classifier.kernel, "same")
    yield Entry(f"{ROOT}{len(blocks) + 2}_logits/bias", model.classifier.bias, "same")


def recognise(tensors: Mapping[str, np.ndarray]) -> tuple[str, int, dict[str, Any]]:
    """Finds (name, num_classes, arguments) of a Real-to-Binary network or a strong baseline.

    A stage begins where a half-block a has a shortcut.

    Raises:
      KeyError: a tensor is missing that tells the widths.
    """
    last = count(tensors, rf"{ROOT}(\d+)[ab]?_") - 1
    outputs = tensors[f"{ROOT}{last}_logits/bias"].shape[0]
    kernels = [tensors[f"{ROOT}{number}a_conv2d/kernel"] for number in range(2, last)]
    starts = [i for i in range(len(kernels)) if i == 0 or f"{ROOT}{i + 2}a_shortcut_conv2d/kernel" in tensors]
    stem = tensors[f"{ROOT}1_conv2d/kernel"].shape
    stride = 2 if stem[0] == 7 else 1
    found: dict[str, Any] = {
        "widths": tuple(kernels[i].shape[-1] for i in starts),
        "depth": len(kernels) // max(len(starts), 1),
        "stem_stride": stride,
    }
    usual: dict[str, Any] = {"widths": WIDTHS, "depth": 2, "stem_stride": default_stride(outputs)}
    name, side = "real_to_binary", f"{ROOT}2a_rescale/scale_h"
    if side in tensors:
        name, usual["resolution"] = "strong_baseline", 224
        found["resolution"] = tensors[side].shape[0] * (4 if stride == 2 else 1)
    return name, outputs, {key: value for key, value in found.items() if value != usual[key]}
