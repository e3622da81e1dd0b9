"""Keeps compiled programs on disk, so that the next start does not compile them again.

JAX decides what belongs to the key of a program: the program itself, the versions, XLA's flags, the kind of device, and a CPU's features.
This module decides where the programs lie and how they are written. JAX's own store writes a file in place, and never replaces one that was
cut off; and its limit on the size takes a lock, which buckets and read-only folders do not have.
"""

import contextlib
import hashlib
import logging
import os
import uuid
import warnings
from typing import Any

import jax
from jax._src import compilation_cache  # JAX has no public way to give its cache another store
from jax._src.compilation_cache_interface import CacheInterface
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from bnext_jax.errors import one_line
from bnext_jax.host import cache
from bnext_jax.host.process import processors
from bnext_jax.io import buckets
from bnext_jax.io.files import write_whole
from bnext_jax.io.paths import Path, to_path

log = logging.getLogger(__name__)
FOLDER = "compiled"  # in the user's cache folder, or in a work directory
LIMIT = 2**30  # bytes of a folder; JAX_COMPILATION_CACHE_MAX_SIZE sets another limit
ENDING = ".program"
DIGEST = 32  # bytes of the checksum at the start of a file
_ours: str | None = None  # the folder that the last call of keep() chose, to tell it from one that the user chose


class Store(CacheInterface):
    """One folder of compiled programs: what JAX's cache reads from and writes to. A folder that fails costs time, never a run.

    Args:
      folder: the folder, on a disk or in a bucket. It is made when the first program is written.
      limit: largest size of all programs, in bytes; those that were not used for the longest time go first.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self._path: Any = to_path(folder)  # the name that JAX expects
        self._limit, self._room = limit, -1
        self._reads = self._writes = True
        # A program for a CPU is divided among the processors that XLA saw when it compiled; JAX's key does not say how many.
        self._ending = f"-{processors()}{ENDING}" if jax.default_backend() == "cpu" else ENDING

    def get(self, key: str) -> bytes | None:
        """Returns the program of a key; None if there is none, or if it is damaged or cannot be read."""
        path = self._path / f"{key}{self._ending}"
        try:
            content = buckets.patient(path, lambda: path.read_bytes() if path.exists() else None) if self._reads else None
        except Exception as error:  # file systems of buckets raise their own types
            self._reads = False
            log.warning("compiled programs in %s cannot be read (%s); they are compiled again", self._path, one_line(error))
            return None
        if content is None:
            return None
        if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
            log.warning("a compiled program in %s is damaged; it is compiled again", self._path)
            return None  # put() replaces it
        if not path.bucket:
            with contextlib.suppress(OSError):
                os.utime(path)  # the time of its last use
        return content[DIGEST:]

    def put(self, key: str, value: bytes) -> None:
        """Writes the program of a key."""
        if not self._writes or DIGEST + len(value) > self._limit:
            return
        try:
            buckets.patient(self._path, lambda: self._make_room(DIGEST + len(value)))
            self._write(self._path / f"{key}{self._ending}", hashlib.sha256(value).digest() + value)
        except Exception as error:
            self._writes = False
            log.warning("compiled programs cannot be kept in %s (%s); the next start compiles again", self._path, one_line(error))

    def _write(self, path: Path, content: bytes) -> None:
        """Writes a program atomically, also if another process writes the same one at the same time."""
        if path.bucket:
            write_whole(path, content, "program")
            return
        partial = path.with_name(f"{uuid.uuid4().hex}{ENDING}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Removes the oldest programs if there is no room for `size` bytes. Looks at the folder only then, and at the first call."""
        self._path.mkdir(parents=True, exist_ok=True)
        if self._room < size:
            found = []
            # A folder without files does not exist in a bucket.
            for path in self._path.iterdir() if self._path.exists() else ():
                if path.name.endswith((ENDING, f"{ENDING}.partial")):  # a user's folder may hold other files too
                    with contextlib.suppress(FileNotFoundError):  # another process has just removed or renamed it
                        found.append((path.stat(), path))
            total = sum(about.length for about, _ in found)
            for about, path in sorted(found, key=lambda pair: pair[0].mtime):
                if total + size <= self._limit:
                    break
                path.unlink(missing_ok=True)
                total -= about.length
            self._room = self._limit - total
        self._room -= size


def keep(workdir: str | None = None) -> None:
    """Lets JAX keep compiled programs in a folder. Call it before the first compilation; further calls may choose another folder.

    The folder is the user's choice (JAX_COMPILATION_CACHE_DIR), or WORKDIR/compiled, or compiled/ in the user's cache folder.
    JAX_ENABLE_COMPILATION_CACHE=off keeps nothing.

    Args:
      workdir: a folder that all processes of the run reach, also the machines of a later start; None = there is none.
    """
    global _ours
    given, maximum = jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size  # type: ignore[attr-defined]
    if not jax.config.jax_enable_compilation_cache or os.environ.get("JAX_COMPILATION_CACHE_DIR") == "":  # type: ignore[attr-defined]
        return
    if given and given != _ours:
        folder = given
    else:
        own = None if workdir else cache.writable(FOLDER)
        folder = _ours = f"{workdir}/{FOLDER}" if workdir else str(own) if own else None
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            # A run compiles some sixty small programs besides its step. In a bucket each would be a request.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0 if folder and "://" in folder else 0.0)
    if "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES" not in os.environ:
        # XLA's own caches for GPUs would put the folder's path into each key; what they hold is part of the compiled program.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "")
    limit = LIMIT if maximum < 0 else maximum
    compilation_cache.get_file_cache = lambda path: (Store(path, limit), path)
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache", UserWarning)  # of another version, say: compiled again
    if folder != given:
        jax.config.update("jax_compilation_cache_dir", folder)
        reset_cache()  # JAX opens the folder once


def keep_for_run(folder: Path) -> None:
    """Keeps compiled programs in a run's work directory if other machines reach it, so that those of a later start find them.

    Args:
      folder: the work directory. It counts as reached by others if it lies in a bucket, or if several processes share it.
    """
    if folder.bucket or jax.process_count() > 1:
        keep(str(folder))
