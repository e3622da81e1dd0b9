"""PyTorch files from strangers: read without running anything in them, written whole or not at all.

`.pth`, `.pth.tar`, `.pt` and `.bin` go through torch.load(weights_only=True) alone, mapped into memory, so that the
optimizer's tensors in a training checkpoint are never read; `.safetensors` needs no PyTorch.
"""

import dataclasses
import json
import pathlib
import pickle
import re

import numpy as np

from bnext_jax.errors import UserError, one_line
from bnext_jax.host.process import needs
from bnext_jax.io.files import written_whole

PICKLED, SAFE = "PyTorch", "safetensors"
SUFFIXES = {".pth.tar": PICKLED, ".pth": PICKLED, ".pt": PICKLED, ".bin": PICKLED, ".safetensors": SAFE}


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a file holds.

    Attributes:
      tensors: {PyTorch name: numpy array}, without "module.". epoch, temperature: as the file says, or None.
      described: in a file that `write` made, {"name", "num_classes", "arguments"} of the network, else None.
    """

    tensors: dict
    epoch: int | None = None
    temperature: float | None = None
    described: dict | None = None


class Inert:
    """Stands in a training checkpoint for all that is neither a tensor nor plain data: takes anything, does nothing."""

    def __new__(cls, *_):
        return super().__new__(cls)

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        pass


# The names that histories and command lines are pickled with (numpy 1 and 2). Their own functions never run: numpy's
# would make arrays of pointers out of a file's bytes.
NAMED_IN_HISTORIES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "argparse.Namespace",
)
TEMPERATURE = {PICKLED: "temp", SAFE: "temperature"}  # its entry; the first is the reference's name
DESCRIBED = "bnext_jax"  # the entry of training checkpoints and safetensors' notes that describes the network, as JSON


def kind(path):
    """PICKLED or SAFE by a file's suffix, None for any other."""
    name = pathlib.Path(path).name
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _content(path):
    """PICKLED or SAFE by a file's first bytes, None for anything else. Raises UserError where there are none."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is empty; fetch it again")
    if head.startswith((b"PK\x03\x04", b"\x80\x02")):  # a zip archive, or the older bare pickle
        return PICKLED
    return SAFE if len(head) == 9 and head[8:] == b"{" else None


def read(path):
    """Reads a state dict or a training checkpoint.

    Args:
      path: a file with one of SUFFIXES; its content must be what the suffix says.
    Returns:
      TorchFile; arrays of float16 and bfloat16 become float32.
    Raises:
      UserError: missing, empty, truncated, of another kind than its suffix says, without tensors, with anything in it
        that would run code, or PyTorch is needed and missing.
    """
    expected, found = kind(path), _content(path)
    if expected is None:
        raise UserError(f"{path} is no PyTorch file by its name; its suffix must be one of {', '.join(SUFFIXES)}")
    if found is None:
        raise UserError(f"{path} holds neither PyTorch's format nor safetensors; it is damaged or something else")
    if found != expected:
        raise UserError(f"{path} is a {found} file, which its suffix does not say; rename it")
    return _read_safe(path) if found == SAFE else _read_pickled(path)


def _read_safe(path):
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            notes = file.metadata() or {}
            tensors = {name: _at_least_float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118, it is no dict
    except Exception as error:  # a damaged file surfaces as many kinds
        raise UserError(f"{path} cannot be read ({one_line(error, 200)}); it is damaged or truncated") from error
    return _file(path, tensors, notes, TEMPERATURE[SAFE])


def _file(path, tensors, notes, temperature):
    """A TorchFile out of what a file's author wrote, which may be anything; "module." goes, training on several GPUs puts it there."""
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
                content = torch.load(path, map_location="cpu", weights_only=True)  # the older format cannot be mapped
    except Exception as error:  # a damaged file surfaces as many kinds
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
    """What the unpickler says was wrong, behind PyTorch's advice on trusting files."""
    return one_line(str(error).rpartition("WeightsUnpickler error:")[2] or error, 200)


def _torch(path):
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} {needs('torch')}; or use a .safetensors file") from error
    return torch


def _array(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()


def write(path, tensors, *, epoch, temperature, described):
    """Writes a state dict: a training checkpoint for `.pth.tar`, else the bare state dict.

    Args:
      path: the file; its suffix says which kind, see SUFFIXES. tensors: {PyTorch name: numpy array}.
      epoch: integer; temperature: float or None; described: {"name", "num_classes", "arguments"} of the network. They are
        kept in `.pth.tar` (`epoch`, `temp`, `bnext_jax`) and in safetensors' notes; a bare state dict has no place for them.
    Raises:
      UserError: unknown suffix, the file exists, or it cannot be written; then nothing is left of it.
    """
    path = pathlib.Path(path)
    target = kind(path)
    if target is None:
        raise UserError(f"{path} has no suffix of a PyTorch file; use one of {', '.join(SUFFIXES)}")
    if path.exists():
        raise UserError(f"{path} exists; remove it or name another file")
    notes = {"epoch": int(epoch), DESCRIBED: json.dumps(described)}
    if temperature is not None:
        notes[TEMPERATURE[target]] = float(temperature)
    with written_whole(path, "file") as partial:  # PyTorch and safetensors tell a full disk in errors of their own
        if target == SAFE:
            from safetensors.numpy import save_file

            save_file(tensors, partial, metadata={"format": "pt", **{key: str(value) for key, value in notes.items()}})
        else:
            torch = _torch(path)
            state = {name: torch.from_numpy(array) for name, array in tensors.items()}
            torch.save({"state_dict": state, **notes} if path.name.endswith(".pth.tar") else state, partial)
