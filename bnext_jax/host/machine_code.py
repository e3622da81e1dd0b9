"""Functions that Numba compiles, with their machine code kept on disk where that is possible. A disk that fails costs time, never a run."""

import contextlib
import functools
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numba

from bnext_jax.errors import one_line
from bnext_jax.host import cache

log = logging.getLogger(__name__)
PACKAGE = pathlib.Path(__file__).parents[1]


@functools.cache
def _has_place() -> bool:
    """Finds a place for the machine code: $NUMBA_CACHE_DIR, beside the source files, or the user's cache folder.

    Returns whether there is one.
    Without our choice of the last one, Numba takes a folder below "~", also for a user without a home folder.
    """
    settings: Any = numba.config
    if settings.CACHE_DIR or os.access(PACKAGE, os.W_OK):
        return True
    folder = cache.writable("numba")
    if folder:
        settings.CACHE_DIR = str(folder)
    return folder is not None


@functools.cache
def _tell(reason: str) -> None:
    log.warning("machine code cannot be kept (%s); the next start compiles again, which takes some seconds", reason)


class _Kept:
    """Numba's cache of one function, whose failures are no errors."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return self._inner.load_overload(*arguments)
        except Exception:  # a damaged file: pickle raises anything
            with contextlib.suppress(OSError):
                self._inner.flush()  # forgets the file; save_overload writes a new one
            return None

    def save_overload(self, *arguments: Any) -> None:
        try:
            self._inner.save_overload(*arguments)
        except Exception as error:  # for example a full disk
            _tell(one_line(error))


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """Makes a decorator like numba.njit(cache=True, nogil=True, error_model="numpy", **options) that needs no place for its cache.

    Args:
      options: further options of numba.njit.
    """

    def decorate(function: Callable) -> Any:
        made = numba.njit(nogil=True, error_model="numpy", **options)(function)
        if _has_place():
            try:
                made.enable_caching()
                made._cache = _Kept(made._cache)
            except RuntimeError as error:  # for example a NUMBA_CACHE_DIR that cannot be written to
                _tell(one_line(error))
        return made

    return decorate
