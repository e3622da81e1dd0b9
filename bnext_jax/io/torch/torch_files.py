"""Reads PyTorch files without running any code in them, and writes them atomically.

`.pth`, `.pth.tar`, `.pt`, `.bin` and `.ckpt` are read by `pickled`, which runs nothing and reads no tensor that is not needed.
`.safetensors` is read with the library safetensors. Reading needs no PyTorch; writing all but `.safetensors` does.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bnext_jax.errors import UserError, one_line
from bnext_jax.io.files import written_whole
from bnext_jax.io.paths import to_path
from bnext_jax.io.reading import PICKLED, SAFE, at_least_float32, content_kind, damage_told, needed
from bnext_jax.io.torch import choice
from bnext_jax.io.torch.choice import DESCRIBED, EPOCH
from bnext_jax.io.torch.objects import Inert, Odd, Storage, Tensor
from bnext_jax.io.torch.pickled import READ, Pickled

SUFFIXES = {".pth.tar": PICKLED, ".pth": PICKLED, ".pt": PICKLED, ".bin": PICKLED, ".ckpt": PICKLED, ".safetensors": SAFE}
WITH_NOTES = (".pth.tar", ".ckpt")  # the suffixes of training checkpoints, which hold facts beside the tensors


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """The content of a PyTorch file.

    Attributes:
      tensors: {PyTorch name: numpy array}, without a prefix that all names share.
      epoch: the file's epoch, or None.
      temperature: the file's temperature, or None.
      described: {"name", "num_classes", "arguments"} of the network in a file that `write` made, else None.
    """

    tensors: dict
    epoch: int | None = None
    temperature: float | None = None
    described: dict | None = None


# safetensors' names of the types that are read, and PyTorch's names of some others
SAFE_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
ODD_TYPES = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
    "F4": "float4_e2m1fn_x2",
}
PLAIN = Tensor(Storage("", "uint8", 0, 0, 0), "uint8", 0, (), ())  # stands for a tensor of safetensors with plain values
SAVE_TENSORS = "save a network's tensors with torch.save(network.state_dict(), FILE)"
LARGEST = 8  # how many times the size of a file its tensors may take: float16 doubles, and a few names may share their numbers
# The entry of the temperature, in training checkpoints and in safetensors' metadata
TEMPERATURE = {PICKLED: choice.TEMPERATURE, SAFE: "temperature"}


def kind(path: os.PathLike | str) -> str | None:
    """PICKLED or SAFE by the file's suffix; None for any other suffix. Does not open the file."""
    name = pathlib.Path(path).name
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def has_notes(path: os.PathLike | str) -> bool:
    """Whether a file of this name, which `write` makes, describes its network. A state dict alone has no place for it."""
    return kind(path) == SAFE or pathlib.Path(path).name.endswith(WITH_NOTES)


def read(path: os.PathLike | str, weights: str | None = None) -> TorchFile:
    """Reads a state dict or a training checkpoint.

    Args:
      path: a file with one of SUFFIXES. Its content must be of the kind that the suffix says.
      weights: which weights to take if the file holds several, see choice.choose; None = the only ones, or the averaged ones.
    Returns:
      The file's content. Arrays of float16 and bfloat16 become float32.
    Raises:
      UserError: the file is missing, empty, truncated, of another kind than its suffix says, or without tensors; one of the network's
        tensors is something else than plain numbers; or it holds other weights than asked for.
    """
    expected, found = kind(path), content_kind(path)
    if expected is None:
        raise UserError(f"{path} is not named like a PyTorch file; its suffix must be one of {', '.join(SUFFIXES)}")
    if found is None:
        raise UserError(f"{path} is neither a PyTorch nor a safetensors file; it is damaged or something else")
    if found != expected:
        raise UserError(f"{path} is a {found} file, but its suffix says otherwise; rename it")
    return _read_safe(path, weights) if found == SAFE else _read_pickled(path, weights)


def _read_safe(path, weights):
    safe_open = needed("safetensors", path).safe_open
    with damage_told(path):
        file = safe_open(path, framework="numpy")
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118, `file` is not a dict
        notes = file.metadata() or {}
    held = {name: PLAIN if found in SAFE_TYPES else Odd(ODD_TYPES.get(found, found)) for name, found in types.items()}
    chosen = _chosen(path, held, weights)
    with damage_told(path):
        own = {name: file.get_tensor(chosen.prefix + name) for name in chosen.entries}
    return _file(own, notes, TEMPERATURE[SAFE])


def _read_pickled(path, weights):
    with contextlib.ExitStack() as stack:
        with damage_told(path):
            file = stack.enter_context(Pickled(path))
        if isinstance(file.content, Inert):
            raise UserError(f"{path} holds an object of {one_line(file.content.name)}, which is not made here: {SAVE_TENSORS}")
        chosen = _chosen(path, file.content, weights)
        if sum(map(file.bytes_of, chosen.entries.values())) > LARGEST * os.path.getsize(path):
            raise UserError(f"{path} has tensors that repeat few numbers many times; save them with .clone()")
        with damage_told(path):
            own = {name: file.array(tensor) for name, tensor in chosen.entries.items()}
            notes = {name: _plain(file, value) for name, value in chosen.notes.items()}
        return _file(own, notes, TEMPERATURE[PICKLED])


def _plain(file, value):
    """A fact of a training checkpoint, which may be a tensor with one number."""
    single = isinstance(value, Tensor) and value.dtype in READ and set(value.size) <= {1}
    return file.array(value).item() if single else value


def _chosen(path, content, weights):
    """The Weights to take. Raises UserError if there are no tensors, or if one of the entries is not a tensor with plain values."""
    found = choice.find(content)
    chosen = choice.choose(path, found, weights) if found else choice.unknown(content)
    if chosen is None and (choice.nameless(content) or not isinstance(content, dict)):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict or a training checkpoint; {SAVE_TENSORS}")
    if chosen is None:
        objects = (
            {choice.word(key): value.name for key, value in content.items() if isinstance(value, Inert)}
            if isinstance(content, dict)
            else {}
        )
        told = f" (it has objects: {choice.few(f'{key} of {name}' for key, name in objects.items())})" if objects else ""
        raise UserError(f"{path} holds no tensors{told}; {SAVE_TENSORS}")
    entries = chosen.entries
    odd = {name: value.name for name, value in entries.items() if isinstance(value, Odd)}
    odd |= {name: value.dtype for name, value in entries.items() if isinstance(value, Tensor) and value.dtype not in READ}
    if odd:
        kinds = ", ".join(sorted(set(odd.values())))
        advice = "save the network with dense tensors in float32"
        raise UserError(f"{path} has tensors in {one_line(kinds)}, which are not read: {choice.few(odd)}; {advice}")
    others = [
        f"{name} ({getattr(value, 'name', type(value).__name__)})" for name, value in entries.items() if not isinstance(value, Tensor)
    ]
    if others:
        raise UserError(f"{path} has entries in its state dict that are no tensors: {choice.few(others)}; save it without them")
    return chosen


def _file(tensors, notes, temperature):
    """Makes a TorchFile.

    Args:
      tensors: {PyTorch name: numpy array}.
      notes: the file's other entries. A stranger wrote them, so they may be anything; wrong ones become None.
      temperature: the name of the temperature's entry.
    """
    tensors = {name: at_least_float32(array) for name, array in tensors.items()}
    epoch = _number(notes.get(EPOCH), int)
    known = epoch if epoch is not None and 0 <= epoch < 2**31 else None
    return TorchFile(tensors, known, _number(notes.get(temperature), float), _description(notes.get(DESCRIBED)))


def _number(value, kind):
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _description(text):
    try:
        described = json.loads(text)
        name, classes, arguments = (described[key] for key in ("name", "num_classes", "arguments"))
    except (TypeError, ValueError, KeyError, RecursionError):
        return None
    return described if (type(name), type(classes), type(arguments)) == (str, int, dict) else None


def write(
    path: os.PathLike | str,
    tensors: dict[str, np.ndarray],
    *,
    epoch: int,
    temperature: float | None,
    described: Mapping[str, Any],
) -> None:
    """Writes a state dict atomically: inside a training checkpoint for `.pth.tar` and `.ckpt`, else alone.

    A training checkpoint keeps the epoch, the temperature and the description as `epoch`, `temp` and `bnext_jax`. A safetensors file keeps
    them in its metadata. A state dict alone has no place for them.

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
    notes = {EPOCH: int(epoch), DESCRIBED: json.dumps(described)}
    if temperature is not None:
        notes[TEMPERATURE[target]] = float(temperature)
    with written_whole(path, "file") as partial:  # PyTorch and safetensors report a full disk with their own exception types
        if target == SAFE:
            needed("safetensors.numpy", path).save_file(
                tensors, partial, metadata={"format": "pt", **{key: str(value) for key, value in notes.items()}}
            )
        else:
            torch = needed("torch", path, "; or write a .safetensors file")
            state = {name: torch.from_numpy(array) for name, array in tensors.items()}
            torch.save({"state_dict": state, **notes} if path.name.endswith(WITH_NOTES) else state, partial)
