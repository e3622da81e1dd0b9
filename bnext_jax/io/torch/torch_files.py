"""Reads PyTorch files without running any code in them, and writes them atomically.

`.pth`, `.pth.tar`, `.pt` and `.bin` are read with torch.load(weights_only=True) only. The file is mapped into memory, so the optimizer's
tensors in a training checkpoint are never read; PyTorch's older format cannot be mapped. `.safetensors` needs no PyTorch.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bnext_jax.errors import UserError, one_line
from bnext_jax.host.process import needs
from bnext_jax.io.files import written_whole
from bnext_jax.io.paths import to_path

PICKLED, SAFE = "PyTorch", "safetensors"
SUFFIXES = {".pth.tar": PICKLED, ".pth": PICKLED, ".pt": PICKLED, ".bin": PICKLED, ".safetensors": SAFE}


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """The content of a PyTorch file.

    Attributes:
      tensors: {PyTorch name: numpy array}, without the prefix "module.".
      epoch: the file's epoch, or None.
      temperature: the file's temperature, or None.
      described: {"name", "num_classes", "arguments"} of the network in a file that `write` made, else None.
    """

    tensors: dict
    epoch: int | None = None
    temperature: float | None = None
    described: dict | None = None


class Inert:
    """Replaces every object in a training checkpoint that is neither a tensor nor plain data. It accepts any arguments and does nothing."""

    def __new__(cls, *_):
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state):
        pass


# Objects that PyTorch training checkpoints hold in their loss histories and command lines (numpy 1 and 2). `Inert` replaces them, so their
# own functions never run: numpy's would make arrays of pointers from a file's bytes.
NAMED_IN_HISTORIES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "argparse.Namespace",
)
TEMPERATURE = {PICKLED: "temp", SAFE: "temperature"}  # the entry of the temperature; "temp" is the name in the authors' code
DESCRIBED = "bnext_jax"  # the entry, in training checkpoints and safetensors' metadata, that describes the network as JSON


def kind(path: os.PathLike | str) -> str | None:
    """PICKLED or SAFE by the file's suffix; None for any other suffix. Does not open the file."""
    name = pathlib.Path(path).name
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _content(path):
    """PICKLED or SAFE by the file's first bytes; None for other bytes. Raises UserError if the file is empty or cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is empty; fetch it again")
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):  # a zip archive, or PyTorch's older format, a pickle
        return PICKLED
    return SAFE if len(head) == 9 and head[8:] == b"{" else None


def read(path: os.PathLike | str) -> TorchFile:
    """Reads a state dict or a training checkpoint.

    Args:
      path: a file with one of SUFFIXES. Its content must be of the kind that the suffix says.
    Returns:
      The file's content. Arrays of float16 and bfloat16 become float32.
    Raises:
      UserError: the file is missing, empty, truncated, of another kind than its suffix says, or without tensors; it holds something that
        would run code; or PyTorch is needed and not installed.
    """
    expected, found = kind(path), _content(path)
    if expected is None:
        raise UserError(f"{path} is not named like a PyTorch file; its suffix must be one of {', '.join(SUFFIXES)}")
    if found is None:
        raise UserError(f"{path} is neither a PyTorch nor a safetensors file; it is damaged or something else")
    if found != expected:
        raise UserError(f"{path} is a {found} file, but its suffix says otherwise; rename it")
    return _read_safe(path) if found == SAFE else _read_pickled(path)


def _module(name, path, advice=""):
    """Imports a module that `path` needs. Raises UserError if its package is not installed; the message ends with the advice."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{path} {needs(name.split('.')[0])}{advice}") from error


def _torch(path):
    return _module("torch", path, "; or use a .safetensors file")


def _read_safe(path):
    safe_open = _module("safetensors", path).safe_open
    try:
        with safe_open(path, framework="numpy") as file:
            notes = file.metadata() or {}
            tensors = {name: _at_least_float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118, `file` is not a dict
    except Exception as error:  # a damaged file raises many types
        raise UserError(f"{path} cannot be read ({one_line(error, 200)}); it is damaged or truncated") from error
    return _file(path, tensors, notes, TEMPERATURE[SAFE])


def _file(path, tensors, notes, temperature):
    """Makes a TorchFile. Removes the prefix "module.", which training on several GPUs adds.

    Args:
      path: the file, for messages.
      tensors: {PyTorch name: numpy array}.
      notes: the file's other entries. A stranger wrote them, so they may be anything; wrong ones become None.
      temperature: the name of the temperature's entry.
    """
    if not tensors:
        raise UserError(f"{path} holds no tensors; a state dict, or a training checkpoint with `state_dict`, is needed")
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return TorchFile(tensors, _number(notes.get("epoch"), int), _number(notes.get(temperature), float), _description(notes.get(DESCRIBED)))


def _number(value, kind):
    try:
        return kind(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _description(text):
    try:
        described = json.loads(text)
        name, classes, arguments = (described[key] for key in ("name", "num_classes", "arguments"))
    except (TypeError, ValueError, KeyError, RecursionError):
        return None
    return described if (type(name), type(classes), type(arguments)) == (str, int, dict) else None


def _at_least_float32(array):
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def _read_pickled(path):
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in NAMED_IN_HISTORIES]):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                content = torch.load(path, map_location="cpu", weights_only=True)  # PyTorch's older format cannot be mapped into memory
    except Exception as error:  # a damaged file raises many types
        named = isinstance(error, pickle.UnpicklingError) and re.search(r"GLOBAL ([\w.]+\w) ", str(error))
        if not named:
            raise UserError(f"{path} cannot be read ({_told(error)}); it is damaged or truncated") from error
        raise UserError(f"{path} was not loaded: it would run code or make objects ({named[1]}); only files of tensors are read") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict or a training checkpoint")
    nested = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), None)
    state = content if nested is None else nested
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    others = [str(name) for name in state if name not in tensors]
    if nested is not None and others:
        raise UserError(f"{path} has entries in its state dict that are no tensors: {', '.join(others)}")
    try:
        arrays = {name: _array(value) for name, value in tensors.items()}
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{path} has tensors without plain values ({one_line(error, 200)}); save it with dense tensors") from error
    return _file(path, arrays, {} if nested is None else content, TEMPERATURE[PICKLED])


def _told(error):
    """The unpickler's own message, without PyTorch's advice on trusting files that stands before it."""
    return one_line(str(error).rpartition("WeightsUnpickler error:")[2] or error, 200)


def _array(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()


def write(
    path: os.PathLike | str,
    tensors: dict[str, np.ndarray],
    *,
    epoch: int,
    temperature: float | None,
    described: Mapping[str, Any],
) -> None:
    """Writes a state dict atomically: inside a training checkpoint for `.pth.tar`, else alone.

    `.pth.tar` keeps the epoch, the temperature and the description as `epoch`, `temp` and `bnext_jax`. A safetensors file keeps them in its
    metadata. A state dict alone has no place for them.

    Args:
      path: the file to write. Its suffix, one of SUFFIXES, chooses the kind.
      tensors: {PyTorch name: numpy array}.
      epoch: number of epochs done.
      temperature: of the binary weights; None = the network has none.
      described: {"name", "num_classes", "arguments"} of the network, plain data.
    Raises:
      UserError: the suffix is unknown, the file exists, or it cannot be written. Then no part of it is left.
    """
    path = to_path(path)
    target = kind(path)
    if target is None:
        raise UserError(f"{path} has no suffix of a PyTorch file; use one of {', '.join(SUFFIXES)}")
    if path.exists():
        raise UserError(f"{path} exists; remove it or name another file")
    notes = {"epoch": int(epoch), DESCRIBED: json.dumps(described)}
    if temperature is not None:
        notes[TEMPERATURE[target]] = float(temperature)
    with written_whole(path, "file") as partial:  # PyTorch and safetensors report a full disk with their own exception types
        if target == SAFE:
            _module("safetensors.numpy", path).save_file(
                tensors, partial, metadata={"format": "pt", **{key: str(value) for key, value in notes.items()}}
            )
        else:
            torch = _torch(path)
            state = {name: torch.from_numpy(array) for name, array in tensors.items()}
            torch.save({"state_dict": state, **notes} if path.name.endswith(".pth.tar") else state, partial)
