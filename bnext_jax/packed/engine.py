"""The engine in C from Python: opens a packed file, computes logits, alone or inside jax.jit."""

import ctypes
import dataclasses
import functools
import os
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnext_jax.errors import UserError
from bnext_jax.host.process import processors
from bnext_jax.io.files import sha256
from bnext_jax.packed.build import library

MESSAGE = 512  # bytes of the longest message
PARTS = ("real", "binary", "elementwise", "gates", "head")  # what bnext_seconds tells apart


class _Options(ctypes.Structure):
    _fields_ = [("threads", ctypes.c_int), ("kernel", ctypes.c_char_p)]


class _About(ctypes.Structure):
    _fields_ = [
        ("classes", ctypes.c_int),
        ("multiple", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("mean", ctypes.c_float * 3),
        ("std", ctypes.c_float * 3),
        ("threads", ctypes.c_int),
        ("kernel", ctypes.c_char_p),
        ("weight_bytes", ctypes.c_double),
    ]


@dataclasses.dataclass(frozen=True)
class About:
    """Facts on an open network.

    Attributes:
      classes: number of classes.
      multiple: height and width of an image must be multiples of it, in pixels.
      threads: threads that one call may use.
      kernel: the instruction set: "avx512", "avx2", "neon" or "c".
      weight_bytes: memory of the weights.
    """

    classes: int
    multiple: int
    threads: int
    kernel: str
    weight_bytes: int


@functools.cache
def _functions():
    loaded = library()
    net, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    known: dict[str, tuple[Any, list[Any]]] = {
        "bnext_open": (net, [text, ctypes.POINTER(_Options), text, size]),
        "bnext_close": (None, [net]),
        "bnext_about": (_About, [net]),
        "bnext_run": (ctypes.c_int, [net, ctypes.c_void_p, *[ctypes.c_int] * 3, ctypes.c_void_p, text, size]),
        "bnext_map": (ctypes.c_long, [net, ctypes.c_void_p, *[ctypes.c_int] * 3, ctypes.c_void_p, ctypes.c_long, text, size]),
        "bnext_seconds": (None, [net, ctypes.POINTER(ctypes.c_double)]),
        "bnext_xla_register": (ctypes.c_int, [text, net]),
        "bnext_xla_close": (None, [net]),
    }
    for name, (result, arguments) in known.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Engine:
    """An open packed file in the engine. Several threads may call it at once. Two engines are equal if they are the same object.

    Args:
      path: a packed file on a disk.
      threads: threads that one call may use; 0 = all processors that this process may use.
      kernel: "avx512", "avx2", "neon" or "c"; None = the fastest of this processor.
    Raises:
      UserError: the file cannot be read, is damaged, or has no program that the engine knows.
      NoEngine: the engine cannot be built here.
    """

    def __init__(self, path: os.PathLike | str, threads: int = 0, kernel: str | None = None) -> None:
        self._lib = _functions()
        threads = threads or processors()
        message = ctypes.create_string_buffer(MESSAGE)
        options = _Options(threads, kernel.encode() if kernel else None)
        self._net = self._lib.bnext_open(os.fsencode(path), options, message, MESSAGE)
        if not self._net:
            raise UserError(f"{path}: {message.value.decode(errors='replace')}")
        about = self._lib.bnext_about(self._net)
        self.about = About(about.classes, about.multiple, about.threads, about.kernel.decode(), int(about.weight_bytes))
        self._key = f"{sha256(path)}:{self.about.kernel}:{threads}"  # the same in every process: JAX keeps compiled programs on disk
        if self._lib.bnext_xla_register(self._key.encode(), self._net):
            self._lib.bnext_close(self._net)
            raise MemoryError
        self._closing = weakref.finalize(self, self._lib.bnext_xla_close, self._net)
        self._closing.atexit = False  # then another thread may still be computing, and the system frees the memory anyway

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Computes logits without JAX.

        Args:
          images: [N,H,W,3], normalized; they are computed in float32.
        Returns:
          float32 [N, classes].
        Raises:
          UserError: the images do not fit the network.
        """
        images = np.ascontiguousarray(images, np.float32)
        if images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"images have the shape {list(images.shape)}; a packed network takes [N, height, width, 3]")
        logits = np.empty((len(images), self.about.classes), np.float32)
        message = ctypes.create_string_buffer(MESSAGE)
        sides = images.shape[:3]
        if len(images) and self._lib.bnext_run(self._net, images.ctypes.data, *sides, logits.ctypes.data, message, MESSAGE):
            raise UserError(message.value.decode(errors="replace"))
        return logits

    def traced(self, images: jax.Array) -> jax.Array:
        """Computes logits inside a program of JAX, on a CPU. Arguments and result: see __call__.

        From then on the network stays open until the process ends: a compiled program, or one that runs at this moment, knows it only by
        its key.
        """
        if images.ndim != 4 or images.shape[3] != 3 or any(side % self.about.multiple or not side for side in images.shape[1:3]):
            raise UserError(
                f"images have the shape {list(images.shape)}; this packed network takes [N, height, width, 3] with sides that are"
                f" multiples of {self.about.multiple}"
            )
        self._closing.detach()
        shape = jax.ShapeDtypeStruct((images.shape[0], self.about.classes), jnp.float32)
        return jax.ffi.ffi_call("bnext_packed", shape, vmap_method="sequential")(images.astype(jnp.float32), key=self._key)

    def map(self, image: np.ndarray, operation: int) -> np.ndarray:
        """Computes the map after one operation of the file's program, for tests and for curiosity.

        Args:
          image: [H,W,3], normalized.
          operation: number of the operation in the program. It must not be the first of two units that stand side by side.
        Returns:
          float32, the map [H',W',C], flat.
        Raises:
          UserError: there is no such map, or the image does not fit.
        """
        image = np.ascontiguousarray(image, np.float32)
        if image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"the image has the shape {list(image.shape)}; a packed network takes [height, width, 3]")
        message = ctypes.create_string_buffer(MESSAGE)
        found = np.empty(0, np.float32)
        for _ in range(2):  # the first call tells the size
            count = self._lib.bnext_map(
                self._net, image.ctypes.data, *image.shape[:2], operation, found.ctypes.data, found.size, message, MESSAGE
            )
            if count < 0:
                raise UserError(message.value.decode(errors="replace"))
            if found.size < count:
                found = np.empty(count, np.float32)
        return found

    def seconds(self) -> dict[str, float]:
        """Seconds of all calls since the file was opened, by the kind of work (PARTS)."""
        found = (ctypes.c_double * len(PARTS))()
        self._lib.bnext_seconds(self._net, found)
        return dict(zip(PARTS, found, strict=True))
