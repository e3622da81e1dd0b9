"""Reads and writes packed files, `NAME.bnext` (docs/packed_format.md). A packed file is a safetensors file with a description.

Packed files come from strangers. The reader checks every length, type and place before it uses a byte.
"""

import json
import math
import mmap
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from bnext_jax.config import ORIENTATIONS
from bnext_jax.errors import UserError, one_line
from bnext_jax.io.files import written_whole
from bnext_jax.io.paths import to_path

SUFFIX = ".bnext"
FORMAT = 1  # the newest format that this module reads, and the one that it writes
PROGRAM = "program"  # the name of the first tensor, see packed.program
DESCRIBED = "bnext_jax"  # the entry in safetensors' metadata that holds the description as JSON
TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U32": np.dtype("<u4"), "U8": np.dtype("u1")}
ALIGNMENT = 64  # bytes; the data start at a multiple of it
LONGEST_HEADER = 2**24  # bytes; the header of BNext-L has about 2^18


def is_packed(path: os.PathLike | str) -> bool:
    """Whether a file is named like a packed network. Does not open the file."""
    return pathlib.Path(path).suffix.lower() == SUFFIX


def places(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The place of each tensor in a file that `write` makes, in bytes from the start of the data.

    The keys have the order of the file: the program, then tensors of 4-byte numbers, then tensors of bytes. So numbers of 4 bytes lie at
    multiples of 4.

    Args:
      tensors: {name: array}, float32, uint32 or uint8.
    """
    names = sorted(tensors, key=lambda name: (name != PROGRAM, tensors[name].dtype.itemsize == 1))  # stable: keeps the order otherwise
    found, place = {}, 0
    for name in names:
        found[name] = place
        place += tensors[name].nbytes
    return found


def write(path: os.PathLike | str, tensors: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> None:
    """Writes a packed file atomically.

    Args:
      path: the file to write; it must not exist.
      tensors: {name: array}, float32, uint32 or uint8, see packed.pack.
      description: JSON data, see packed.pack. A "source" is left out: it is the name of the file that a network came from.
    Raises:
      UserError: the path exists or cannot be written.
    """
    if to_path(path).exists():
        raise UserError(f"{path} exists; remove it or name another --output")
    kinds = {kind: name for name, kind in TYPES.items()}
    starts = places(tensors)
    told = json.dumps({key: value for key, value in description.items() if key != "source"}, allow_nan=False)
    header: dict[str, Any] = {"__metadata__": {DESCRIBED: told}}
    for name, start in starts.items():
        array = tensors[name]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with written_whole(path, "packed network") as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in starts:
            file.write(np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<")).tobytes())


def read(path: os.PathLike | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads a packed file.

    Returns:
      (description, {name: array}). The arrays are views of the file, which is mapped into memory. They cannot be written. The description
      is that of `write`, with the name of the file as "source".
    Raises:
      UserError: the file cannot be read, is no packed network, is damaged, or a newer bnext_jax wrote it.
    """
    description, entries, start, size = _opened(path)
    _check_places(path, entries, size - start)
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)  # the arrays keep it open
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    whole = np.frombuffer(mapped, np.uint8)
    tensors = {name: whole[start + a : start + b].view(TYPES[kind]).reshape(shape) for name, (kind, shape, a, b) in entries.items()}
    return description, tensors


def read_description(path: os.PathLike | str) -> dict[str, Any]:
    """Reads the description of a packed file and no tensor. See `read`."""
    return _opened(path)[0]


def _damaged(path, what):
    return UserError(f"{path} is damaged: {what}; fetch it again")


def _opened(path):
    """Reads the header. Returns (description, {name: (type, shape, begin, end)}, place of the data, size of the file)."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8:
                raise _damaged(path, "it is empty") if not size else _damaged(path, f"it has only {size} bytes")
            if length > LONGEST_HEADER:
                raise UserError(f"{path} is not a packed network: its header would have {length} bytes; `bnext pack` makes one")
            if length > size - 8:
                raise _damaged(path, f"it has {size} bytes, and its header alone would have {length}")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    header = _json(text)
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a packed network: its header is no JSON object; give a file that `bnext pack` wrote")
    notes = header.pop("__metadata__", None)
    told = notes.get(DESCRIBED) if isinstance(notes, dict) else None
    if not isinstance(told, str):
        raise UserError(f"{path} is a safetensors file but not a packed network; give a file that `bnext pack` wrote")
    return {**_description(path, told), "source": pathlib.Path(path).name}, _entries(path, header), 8 + length, size


def _json(text):
    """The parsed JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a text that is not UTF-8 raises a ValueError too
        return None


def _entries(path: os.PathLike | str, header: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Checks the entries of a header. Returns {name: (type, shape, begin, end)}."""
    found = {}
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise _damaged(path, f"the entry of {one_line(name)} is no JSON object")
        kind, shape, ends = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(kind, str) or kind not in TYPES:
            raise _damaged(path, f"{one_line(name)} has the type {one_line(kind, 40)}, not one of {', '.join(TYPES)}")
        if not _counts(shape) or 0 in shape:
            raise _damaged(path, f"{one_line(name)} has the shape {one_line(shape, 80)}")
        if not _counts(ends) or len(ends) != 2:
            raise _damaged(path, f"{one_line(name)} has the place {one_line(ends, 80)}")
        begin, end = ends
        found[name] = (kind, tuple(shape), begin, end)
    return found


def _counts(value: Any) -> TypeGuard[list[int]]:
    """Whether a value of JSON is a short list of numbers 0, 1, 2 and so on. A boolean is no number here."""
    return isinstance(value, list) and len(value) <= 32 and all(type(one) is int and 0 <= one < 2**63 for one in value)


def _check_places(path, entries, size):
    """Raises UserError unless the tensors fill the data, `size` bytes, without gaps, and each has the bytes that its shape needs."""
    end = 0
    for name, (kind, shape, begin, after) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != end:
            raise _damaged(path, f"{one_line(name)} begins at byte {begin} of the data, and the tensor before it ends at byte {end}")
        needed = math.prod(shape) * TYPES[kind].itemsize
        if after - begin != needed:
            raise _damaged(path, f"{one_line(name)} has {after - begin} bytes, and its shape {shape} needs {needed}")
        end = after
    if end != size:
        raise _damaged(path, f"its tensors have {end} bytes, and {size} bytes follow its header")


def _description(path, text):
    """Checks the description and returns it."""
    told = _json(text)
    if not isinstance(told, dict):
        raise _damaged(path, "its description is no JSON object")
    version = told.get("format")
    if type(version) is not int or version < 1:
        raise _damaged(path, f"its format is {one_line(version, 40)}, not a number")
    if version > FORMAT:
        raise UserError(f"{path} was written by a newer bnext_jax (format {version}); this one reads {FORMAT}; update bnext_jax")
    model = told.get("model")
    kinds = {"name": str, "num_classes": int, "arguments": dict}
    if not isinstance(model, dict) or any(type(model.get(key)) is not kind for key, kind in kinds.items()) or model["num_classes"] < 1:
        raise _damaged(path, "its description does not name the model, the number of classes and the arguments")
    names = told.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) not in (0, model["num_classes"]):
        raise _damaged(path, f"its class names are not {model['num_classes']} texts")
    counts = [told.get(key) for key in ("epoch", "step", "zero_weights")]
    if not _counts(counts) or not isinstance(told.get("precision"), str):
        raise _damaged(path, "its description lacks epoch, step, precision or zero_weights")
    if not is_preprocessing(told.get("preprocessing")):
        raise _damaged(path, "its preprocessing is not a mean, a std, an eval_transform, an image_shape and an orientation")
    return told


def is_preprocessing(value: Any) -> bool:
    """Whether a value of JSON is a preprocessing as in data.preprocessing, or None. image_shape and orientation may be missing."""
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("eval_transform"), str):
        return False
    if value.get("orientation", "upright") not in ORIENTATIONS:
        return False
    shape = value.get("image_shape", [1, 1, 3])
    threes: tuple[Any, ...] = (value.get("mean"), value.get("std"), shape)
    if not all(isinstance(three, list) and len(three) == 3 and all(type(one) in (int, float) for one in three) for three in threes):
        return False
    return all(abs(one) < 1e9 for three in threes for one in three) and min(value["std"]) > 0 and _counts(shape) and min(shape) > 0
