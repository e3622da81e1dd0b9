"""The tensors of a packed file: what each variable of a network becomes (docs/packed_format.md), and the layout of bits and codes.

`slots` asks the network: the variable for a latent weight's quantizer, the module for a kernel's low-bit quantizer. The writer and the
reader both use it, so they agree.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import LatentWeight
from bnext_jax.nn.kbit import KernelQuantizer
from bnext_jax.nn.variables import Switch, Temperature, TrainingStatistic

BINARY, NORM, CODES, FLOAT = "binary", "norm", "codes", "float"  # kinds of slots
WORD = 32  # bits


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """One variable of a network, or one batch norm, and its tensors in a packed file.

    Attributes:
      kind: BINARY, NORM, CODES or FLOAT.
      name: path of the variable; of a batch norm, path of its module.
      module: the module that owns the variable.
      variable: the variable; of a batch norm, its scale.
      tensors: {name: (numpy type, shape)} of the tensors in the file.
    """

    kind: str
    name: str
    module: nnx.Module
    variable: nnx.Variable
    tensors: dict[str, tuple[Any, tuple[int, ...]]]


def slots(model: nnx.Module) -> list[Slot]:
    """The slots of a network, in the order of the paths. The network may be abstract.

    There is none for the temperature and for switches, and none for statistics that only training reads.
    """
    modules = dict(nnx.iter_modules(model))
    found = []
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        module: Any = modules[path[:-1]]
        name, shape = "/".join(map(str, path)), tuple(variable.shape)
        if isinstance(variable, Temperature | Switch | TrainingStatistic):
            continue
        if isinstance(module, BatchNorm):
            if path[-1] == "scale":
                own = name.removesuffix("/scale")
                found.append(Slot(NORM, own, module, variable, {f"{own}/{part}": (np.float32, shape) for part in ("scale", "bias")}))
        elif isinstance(variable, LatentWeight):
            found.append(Slot(BINARY, name, module, variable, _binary(name, variable)))
        elif path[-1] == "kernel" and isinstance(getattr(module, "quantizer", None), KernelQuantizer):
            found.append(Slot(CODES, name, module, variable, _coded(name, shape, module.quantizer)))
        else:
            found.append(Slot(FLOAT, name, module, variable, {name: (np.float32, shape)}))
    return found


def _binary(name: str, latent: nnx.Variable) -> dict[str, tuple[Any, tuple[int, ...]]]:
    *taps, inputs, outputs = latent.shape
    tensors: dict[str, tuple[Any, tuple[int, ...]]] = {name: (np.uint32, (*taps, -(-inputs // WORD), outputs))}
    like = jax.ShapeDtypeStruct(latent.shape, latent.dtype)
    if jax.eval_shape(latent.get_metadata()["quantizer"].scale, like) is not None:
        tensors[f"{name}_scale"] = (np.float32, (outputs,))
    return tensors


def _coded(name, shape, quantizer):
    ranges = tuple(side for axis, side in enumerate(shape) if axis not in quantizer.axes)
    codes = shape if quantizer.bits == 8 else (-(-math.prod(shape) // 2),)
    return {name: (np.uint8, codes), f"{name}_low": (np.float32, ranges), f"{name}_step": (np.float32, ranges)}


def packed_bits(positive: np.ndarray) -> np.ndarray:
    """Packs booleans [..., I, O] into words: uint32 [..., ceil(I/32), O]. Bit j of a word is input channel 32 w + j."""
    *taps, inputs, outputs = positive.shape
    words = -(-inputs // WORD)
    padded = np.zeros((*taps, words * WORD, outputs), np.uint8)
    padded[..., :inputs, :] = positive
    octets = np.packbits(padded, axis=-2, bitorder="little").reshape(*taps, words, 4, outputs)
    return np.ascontiguousarray(np.moveaxis(octets, -2, -1)).view("<u4")[..., 0].astype(np.uint32)


def unpacked_bits(words: np.ndarray, inputs: int) -> np.ndarray:
    """The inverse of packed_bits: uint32 [..., ceil(I/32), O] to booleans [..., I, O]. `inputs` is I; bits beyond it are ignored."""
    *taps, count, outputs = words.shape
    octets = np.moveaxis(np.ascontiguousarray(words, "<u4")[..., None].view(np.uint8), -1, -2).reshape(*taps, 4 * count, outputs)
    return np.unpackbits(octets, axis=-2, count=inputs, bitorder="little").astype(bool)


def packed_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes 0 to 2^bits - 1 as bytes: uint8 in their own shape for 8 bits, [ceil(n/2)] for 4 bits, the first code in the low half."""
    codes = codes.astype(np.uint8)
    if bits == 8:
        return codes
    flat = np.concatenate([codes.ravel(), np.zeros(codes.size % 2, np.uint8)])
    return flat[0::2] | flat[1::2] << 4


def unpacked_codes(packed: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of packed_codes: uint8 in the shape of the kernel."""
    if bits == 8:
        return packed.reshape(shape)
    return np.stack([packed & 15, packed >> 4], axis=-1).ravel()[: math.prod(shape)].reshape(shape)


def spread(ranges: Any, quantizer: KernelQuantizer, dims: int) -> Any:
    """Reshapes an array with one value a range, such as kernel_low, so that it broadcasts with a kernel of `dims` dimensions."""
    return jnp.expand_dims(ranges, tuple(axis % dims for axis in quantizer.axes))
