"""What the readers of other programs' files share: the kind of a file by its first bytes, and one sentence for any damage."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from bnext_jax.errors import UserError, one_line
from bnext_jax.host.process import needs

PICKLED, SAFE, HDF5, FLAX = "PyTorch", "safetensors", "Keras HDF5", "Flax"


class Refused(ValueError):
    """A file that is not damaged, but is not read. The message says why and what to do; it continues the file's name."""


def content_kind(path: os.PathLike | str) -> str | None:
    """PICKLED, SAFE or HDF5 by the file's first bytes; None for other bytes. Files of Flax have no bytes that tell their kind.

    Raises:
      UserError: the file is empty or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise UserError(f"{path} is empty; fetch it again")
    if head.startswith(b"PK\x03\x04") or (head[0] == 0x80 and head[1:2] in b"\2\3\4\5"):  # a zip archive, or a pickle
        return PICKLED
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return HDF5
    return SAFE if len(head) == 9 and head[8:] == b"{" else None


@contextlib.contextmanager
def damage_told(path: os.PathLike | str) -> Iterator[None]:
    """Turns Refused, and the many types of exceptions that a damaged file raises, into UserError. Put only the reading of bytes into the
    block."""
    try:
        yield
    except Refused as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:
        raise UserError(f"{path} cannot be read ({one_line(error, 200)}); it is damaged or truncated") from error


def needed(name: str, path: os.PathLike | str, advice: str = "") -> ModuleType:
    """Imports a module that `path` needs. Raises UserError if its package is not installed; the message ends with the advice."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{path} {needs(name.split('.')[0])}{advice}") from error


def at_least_float32(array: np.ndarray) -> np.ndarray:
    """The array; as float32 if it is float16 or bfloat16."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array
