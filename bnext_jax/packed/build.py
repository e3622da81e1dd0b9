"""Builds the engine in C at its first use, with the compiler of this machine, and keeps it in the user's cache folder."""

import ctypes
import functools
import hashlib
import logging
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile

import jax

from bnext_jax.errors import one_line
from bnext_jax.host import cache

log = logging.getLogger(__name__)
SOURCES = pathlib.Path(__file__).parent / "runtime"
FLAGS = ("-std=c11", "-O3", "-fPIC", "-shared", "-pthread", "-DBNEXT_XLA")
COMPILERS = ("cc", "gcc", "clang")
PATIENCE = 300  # seconds that a compiler may take


class NoEngine(Exception):
    """The engine cannot be built here. The message says why."""


def sources() -> list[pathlib.Path]:
    """The C files of the engine, sorted."""
    return sorted(SOURCES.glob("*.c"))


def compiler() -> list[str]:
    """The command of the C compiler: $CC, or the first of COMPILERS.

    Raises:
      NoEngine: there is none.
    """
    if own := os.environ.get("CC"):
        try:
            return shlex.split(own)
        except ValueError as error:
            raise NoEngine(f"the variable CC is {own!r}, which is no command ({error})") from error
    found = next((name for name in COMPILERS if shutil.which(name)), None)
    if found is None:
        raise NoEngine(f"there is no C compiler ({', '.join(COMPILERS)}); install one, for example with `apt install gcc`")
    return [found]


def _run(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or error
        raise NoEngine(f"the C compiler failed: {one_line(told)}") from error


def key(command: list[str]) -> str:
    """A name for what the compiler `command` builds from today's sources on this processor: 16 hexadecimal digits."""
    told = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        told.update(path.name.encode() + path.read_bytes())
    told.update("\0".join([*command, *FLAGS, _run([*command, "--version"]), platform.machine(), jax.__version__]).encode())
    return told.hexdigest()[:16]


def _built(folder, name, command):
    """Builds the engine as folder/name. A half-built one has another name, so no process can load it."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = pathlib.Path(work) / name
        _run([*command, *FLAGS, f"-I{jax.ffi.include_dir()}", *map(str, sources()), "-o", str(made), "-lm"])
        os.replace(made, folder / name)
    return folder / name


def library_path() -> pathlib.Path:
    """The file of the engine for this machine; builds it if it does not exist.

    Raises:
      NoEngine: there is no compiler, it fails, or the engine can be written nowhere.
    """
    command = compiler()
    name = f"libbnext-{key(command)}.so"
    problems = []
    # A home folder may be full or read-only; then the engine lives in the folder for temporary files of this user.
    for folder in (cache.root(), cache.temporary()):
        try:
            cache.make_own(folder)
            if (folder / name).exists():
                return folder / name
            log.info("building the engine for packed networks in %s (some seconds, once)", folder)
            return _built(folder, name, command)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror or one_line(error)}")
    raise NoEngine(f"the engine can be written nowhere ({'; '.join(problems)}); set BNEXT_CACHE to a folder")


@functools.cache
def library() -> ctypes.CDLL:
    """The engine, loaded and with its custom call registered in JAX.

    Raises:
      NoEngine: it cannot be built or loaded.
    """
    if os.environ.get("BNEXT_ENGINE") == "off":
        raise NoEngine("BNEXT_ENGINE=off")
    try:
        loaded = ctypes.CDLL(str(library_path()))
    except OSError as error:
        raise NoEngine(f"the engine cannot be loaded: {one_line(error)}") from error
    jax.ffi.register_ffi_target("bnext_packed", jax.ffi.pycapsule(loaded.bnext_xla), platform="cpu")
    return loaded


@functools.cache
def reason() -> str | None:
    """Why the engine does not run here, said once in the log; None where it does."""
    try:
        library()
    except NoEngine as error:
        log.warning("the fast engine for packed networks does not run here: %s; the slower form in XLA runs instead", error)
        return str(error)
    return None
