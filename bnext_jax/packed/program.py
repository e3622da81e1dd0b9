"""The program of a packed file: a table of numbers from which the engine in C computes a BNext (docs/packed_format.md).

Each builder walks a network in the order of computation and names the tensors that each operation uses.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from bnext_jax.models.base import TableModel
from bnext_jax.models.bnext import BNextConfig
from bnext_jax.models.bnext18 import BNext18Config
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.bnext_units import BinaryFeedForward, BinaryUnit, ElmAttention18
from bnext_jax.nn.layers import Conv, Linear
from bnext_jax.packed.file import PROGRAM, places

MAGIC, VERSION = 0x54584E42, 1
NONE = 0xFFFFFFFF  # stands for a tensor that an operation does not have
HEAD, ENTRY, OPERATION = 16, 4, 32  # words
CONVOLUTION, MAXIMUM, UNIT, CLASSIFIER = 1, 2, 3, 4  # kinds of operations
FEED_FORWARD, ATTENTION, ATTENTION_18 = 0, 1, 2  # word 5 of a unit
ALONE, FIRST, SECOND = 0, 1, 2  # word 6 of a unit
WIDEST = {1: 32767, 3: 2184}  # size of a binary kernel -> most input channels whose sums the engine can count in 16 bits
TYPES = {np.dtype(np.float32): 0, np.dtype(np.uint32): 1, np.dtype(np.uint8): 2}


class _Assembler:
    """Collects the tensors and the operations of a program.

    Args:
      model: the network.
      tensors: {name: array} of the file.
    """

    def __init__(self, model: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = tensors
        self.paths = {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}
        self.used: dict[str, int] = {}
        self.operations: list[list[int]] = []

    def tensor(self, module: nnx.Module | None, name: str) -> int:
        """The number of a module's tensor in the table; NONE without a module, or where the file has no such tensor."""
        if module is None:
            return NONE
        path = f"{self.paths[id(module)]}/{name}"
        return self.used.setdefault(path, len(self.used)) if path in self.tensors else NONE

    def add(self, *words: int) -> None:
        """Adds an operation, the words from word 0 on."""
        self.operations.append([*words, *[0] * (OPERATION - len(words))])

    def kernel(self, layer: Conv | Linear | None) -> list[int]:
        """[kernel, kernel_low, kernel_step] of a real layer."""
        return [self.tensor(layer, name) for name in ("kernel", "kernel_low", "kernel_step")]

    def norm(self, norm: BatchNorm | None) -> list[int]:
        """[a, b] of a batch norm."""
        return [self.tensor(norm, name) for name in ("scale", "bias")]

    def limits(self, layer: Linear | None) -> int:
        """The number of the clip limits of a quantized layer's input; NONE where the layer is not quantized."""
        return self.tensor(getattr(layer, "quantizer", None), "input_clip")

    def convolution(self, conv: Conv, norm: BatchNorm) -> None:
        """Adds a real convolution with its batch norm."""
        size, _, inputs, outputs = conv.kernel.shape
        self.add(CONVOLUTION, inputs, outputs, size, conv.stride, int(conv.padding), _bits(conv), *self.kernel(conv), *self.norm(norm))

    def unit(self, unit: BinaryUnit, flavour: int, side: int = ALONE) -> None:
        """Adds a unit of BNext. `flavour` is FEED_FORWARD, ATTENTION or ATTENTION_18; `side` is ALONE, FIRST or SECOND."""
        size, _, inputs, outputs = unit.conv.kernel.shape
        gate = unit.gate
        reduce, expand = (None, None) if gate is None else (gate.reduce, gate.expand)
        shortcut = unit.shortcut if isinstance(unit, ElmAttention18) else None
        self.add(
            UNIT, inputs, outputs, size, unit.stride, flavour, side,
            self.tensor(unit.conv, "kernel"), self.tensor(unit, "shift"),
            *self.norm(unit.norm1), self.tensor(unit.activation2, "slope"),
            NONE if flavour == FEED_FORWARD else self.tensor(unit.activation1, "slope"),
            self.tensor(unit, "scale"),
            *self.norm(None if gate is None and flavour == FEED_FORWARD else unit.norm2),
            0 if reduce is None else reduce.kernel.shape[1], 0 if reduce is None else _bits(reduce),
            *self.kernel(reduce), self.tensor(reduce, "bias"),
            *self.kernel(expand), self.tensor(expand, "bias"),
            self.tensor(None if shortcut is None else shortcut.conv, "kernel"), *self.norm(None if shortcut is None else shortcut.norm),
            self.limits(reduce), self.limits(expand),
        )  # fmt: skip

    def head(self, prelu: nnx.Module, classifier: Linear) -> None:
        """Adds the PReLU, the mean and the classifier."""
        kernel = self.kernel(classifier)
        inputs, classes = classifier.kernel.shape
        bias, limits = self.tensor(classifier, "bias"), self.limits(classifier)
        self.add(CLASSIFIER, inputs, classes, self.tensor(prelu, "slope"), _bits(classifier), *kernel, bias, limits)

    def words(self, model: TableModel, preprocessing: Mapping[str, Any] | None) -> np.ndarray:
        """The complete program, uint32 [16 + 4 T + 32 P]."""
        length = HEAD + ENTRY * len(self.used) + OPERATION * len(self.operations)
        starts = places({PROGRAM: np.zeros(length, np.uint32), **self.tensors})  # the program's own length moves all other tensors
        told = preprocessing or {}
        height, width = told.get("image_shape", (0, 0, 3))[:2]
        colours = np.array([told.get(key, (0, 0, 0)) for key in ("mean", "std")], np.float32).ravel().view(np.uint32)
        head = [MAGIC, VERSION, len(self.used), len(self.operations), model.classifier.kernel.shape[-1], model.total_stride]
        words = [*head, height, width, *colours, length, 0]
        for name in self.used:
            array, place = self.tensors[name], starts[name]
            words += [TYPES[array.dtype], array.size, place % 2**32, place // 2**32]
        for operation in self.operations:
            words += operation
        return np.array(words, np.uint32)


def _bits(layer: Conv | Linear) -> int:
    return 32 if layer.quantizer is None else layer.quantizer.bits


def _bnext(made: _Assembler, model: Any) -> None:
    made.convolution(model.stem.conv, model.stem.norm)
    for block in model.blocks:
        made.unit(block.unit3x3, FEED_FORWARD if isinstance(block.unit3x3, BinaryFeedForward) else ATTENTION)
        sides = (ALONE,) if len(block.units1x1) == 1 else (FIRST, SECOND)
        for unit, side in zip(block.units1x1, sides, strict=True):
            made.unit(unit, FEED_FORWARD, side)
    made.head(model.prelu, model.classifier)


def _bnext18(made: _Assembler, model: Any) -> None:
    made.convolution(model.conv, model.norm)
    if model.downsample:
        made.add(MAXIMUM, 3, 2, 1)
    for stage in model.stages:
        for block in stage:
            made.unit(block.attention, ATTENTION_18)
            made.unit(block.feed_forward, FEED_FORWARD)
    made.head(model.prelu, model.classifier)


BUILDERS: dict[type, Callable[[_Assembler, Any], None]] = {BNextConfig: _bnext, BNext18Config: _bnext18}


def program(model: TableModel, tensors: Mapping[str, np.ndarray], preprocessing: Mapping[str, Any] | None) -> np.ndarray | None:
    """Makes the program of a network.

    Args:
      model: the network.
      tensors: {name: array}, the tensors of the file without the program. Their order gives their places, see packed.file.places.
      preprocessing: of the images, as in data.preprocessing; None = unknown.
    Returns:
      uint32 [16 + 4 T + 32 P]. None for a network that the engine in C does not know, or that is too wide for it, or whose
      binary kernels have scales.
    """
    build = BUILDERS.get(type(model.config))
    kernels = [module.kernel.shape for _, module in nnx.iter_modules(model) if isinstance(module, BinaryConv)]
    scaled = any(name.endswith("/kernel_scale") for name in tensors)  # an operation has no place for the scale of a binary kernel
    if build is None or scaled or any(inputs > WIDEST.get(size, 0) for size, _, inputs, _ in kernels):
        return None
    made = _Assembler(model, tensors)
    build(made, model)
    return made.words(model, preprocessing)
