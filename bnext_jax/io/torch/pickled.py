"""The two containers of torch.save: the zip archive, and the older format, several pickles in a row. Both hold a pickle and storages.

Only the storages that someone asks for are read, so an optimizer's tensors never leave the disk. PyTorch is not needed.
"""

import io
import math
import mmap
import os
import pathlib
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from bnext_jax.io.reading import Refused
from bnext_jax.io.torch import objects, pickles
from bnext_jax.io.torch.objects import Storage, Tensor

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of the older format
LOCAL = struct.Struct("<4s22xHH")  # the head of an entry of a zip archive: signature, length of its name, length of its extra field
LENGTH = struct.Struct("<q")  # before each storage of the older format
# The types whose values are read: PyTorch's name -> numpy's
READ = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "bool": "?",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "u1",
}  # fmt: skip
BYTES = {"complex128": 16, "complex64": 8, "qint32": 4}  # of one number of the other types; 1 if a type is not here


def _bytes(dtype):
    return np.dtype(READ[dtype]).itemsize if dtype in READ else BYTES.get(dtype, 1)


class Pickled:
    """A file of torch.save, open for reading. Use it in a `with` block.

    Args:
      path: the file.
    Attributes:
      content: what was saved: dicts, lists, tuples, texts, numbers, objects.Tensor, and objects.Inert in place of everything else.
    Raises:
      Refused: torch.save did not write the file.
      Exception: of many types, if the file is damaged.
    """

    def __init__(self, path: os.PathLike | str) -> None:
        self._file = pathlib.Path(path).open("rb")  # noqa: SIM115, __exit__ closes it
        self._places: dict[str, Any] = {}  # key of a storage -> an entry of the archive; or, in the older format, (start, bytes)
        self._stored: dict[str, bytes] = {}  # the storages that were read
        self._swapped = False  # whether a machine of the other byte order wrote the file
        self._left = os.fstat(self._file.fileno()).st_size  # bytes to read: entries of a bad archive may share bytes to make it grow
        try:
            archive = self._file.read(2) == b"PK"
            self.content: Any = self._read_archive() if archive else self._read_row()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Pickled":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_archive(self):
        with zipfile.ZipFile(self._file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
        if any("/code/" in name for name in entries):
            raise Refused("is a TorchScript program; torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE) saves its tensors")
        pickled = min((name for name in entries if name.endswith("/data.pkl")), key=len, default=None)
        if pickled is None:
            raise Refused("is a zip archive, but torch.save did not write it; save the network's state_dict() with torch.save")
        root = pickled.removesuffix("data.pkl")
        self._places = {name.removeprefix(f"{root}data/"): entry for name, entry in entries.items() if name.startswith(f"{root}data/")}
        order = entries.get(f"{root}byteorder")
        self._swapped = order is not None and self._bytes_of(order) == b"big"
        return pickles.read(io.BytesIO(self._bytes_of(entries[pickled])))

    def _read_row(self):
        """Reads the older format: a magic number, a version, facts on the machine, the content, the keys, then the storages."""
        seen: dict[str, Storage] = {}

        def persistent(found):
            held = objects.storage(found)
            return seen.setdefault(held.key, held) and held if type(held) is Storage else held

        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
            if pickles.read(stream, persistent) != MAGIC:
                raise Refused("is a pickle that torch.save did not write; it is not opened: that could run code")
            if pickles.read(stream, persistent) != VERSION:
                raise Refused("has another version of PyTorch's format than is known; save it again with a newer PyTorch")
            pickles.read(stream, persistent)
            content, keys = pickles.read(stream, persistent), pickles.read(stream, persistent)
            place = stream.tell()
            for key in map(objects.text_of, keys):  # a nested tuple must not be hashed: it could overflow the stack
                size = seen[key].whole * _bytes(seen[key].dtype)
                if LENGTH.unpack_from(stream, place)[0] != seen[key].whole or place + LENGTH.size + size > len(stream):
                    raise ValueError(f"storage {key} is cut off")
                self._places[key] = (place + LENGTH.size, size)
                place += LENGTH.size + size
        return content

    def _bytes_of(self, place):
        """The bytes of an entry of the archive, or those at (start, bytes). Checks the entry's checksum; 0 means that it has none."""
        start, size = place if type(place) is tuple else (place.header_offset, place.compress_size)
        if type(place) is not tuple:
            if place.compress_type != zipfile.ZIP_STORED:
                raise Refused("is a compressed archive, which torch.save does not write; pack it again without compression")
            self._file.seek(start)
            signature, name, extra = LOCAL.unpack(self._file.read(LOCAL.size))
            if signature != b"PK\x03\x04":
                raise ValueError(f"{place.filename} is not where the archive says")
            start += LOCAL.size + name + extra
        self._left -= size
        if size < 0 or self._left < 0:
            raise ValueError("its parts are larger than the file")
        self._file.seek(start)
        found = self._file.read(size)
        if len(found) != size:
            raise ValueError("a part is cut off")
        if type(place) is not tuple and place.CRC and zlib.crc32(found) != place.CRC:
            raise ValueError(f"the checksum of {place.filename} is wrong")
        return found

    def array(self, tensor: Tensor) -> np.ndarray:
        """The values of a tensor: a read-only view of the bytes in the file. bfloat16 becomes float32.

        Raises:
          Exception: of many types, if the tensor does not lie inside its storage, or the file is damaged.
        """
        held, step = tensor.storage, _bytes(tensor.dtype)
        if held.key not in self._stored:
            self._stored[held.key] = self._bytes_of(self._places[held.key])
        stored = self._stored[held.key]
        if min((tensor.offset, *tensor.size, *tensor.stride)) < 0 or len(tensor.size) != len(tensor.stride):
            raise ValueError("a negative size")
        start = held.start * _bytes(held.dtype) + tensor.offset * step
        last = sum((size - 1) * stride for size, stride in zip(tensor.size, tensor.stride, strict=True))
        dtype = np.dtype(READ[tensor.dtype]).newbyteorder(">" if self._swapped else "<")
        if 0 in tensor.size:
            return np.zeros(tensor.size, dtype)
        if start + (last + 1) * step > min(len(stored), (held.start + held.elements) * _bytes(held.dtype)):
            raise ValueError("a tensor is larger than its storage")
        strides = [stride * step for stride in tensor.stride]
        found = np.ndarray(tensor.size, dtype, stored, start, strides)
        if tensor.dtype == "bfloat16":  # the upper half of a float32
            return (found.astype(np.uint32) << 16).view(np.float32)
        return found.astype(READ[tensor.dtype]) if self._swapped else found

    def bytes_of(self, tensor: Tensor) -> int:
        """How many bytes the values of a tensor take, without reading them."""
        return math.prod(tensor.size) * _bytes(tensor.dtype)
