"""The user's cache folder: where built and compiled things are kept between two starts, also for a user without a home folder."""

import functools
import logging
import os
import pathlib
import stat
import tempfile

from bnext_jax.errors import one_line

log = logging.getLogger(__name__)
ADVICE = "set BNEXT_CACHE to a folder that only you can write to"


def home() -> pathlib.Path | None:
    """The user's home folder, which need not exist. None for a user without one: HOME is not set, and the system does not know the user."""
    found = os.path.expanduser("~")
    return pathlib.Path(found) if os.path.isabs(found) else None


def root() -> pathlib.Path:
    """The cache folder: $BNEXT_CACHE, or bnext_jax in the user's cache folder ($XDG_CACHE_HOME, ~/.cache), or temporary()."""
    if own := os.environ.get("BNEXT_CACHE"):
        return pathlib.Path(own).expanduser().absolute()  # the loader of libraries looks for a bare name in the system's folders
    if base := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(base).absolute() / "bnext_jax"
    where = home()
    return where / ".cache" / "bnext_jax" if where else temporary()


def temporary() -> pathlib.Path:
    """This user's folder among the temporary files, for a user without a writable home folder."""
    return pathlib.Path(tempfile.gettempdir()) / f"bnext_jax-{os.getuid()}"


def make_own(folder: pathlib.Path) -> None:
    """Makes a folder that only this user can write to, or checks that it is one.

    Programs are loaded from there. A program that another user put there would run that user's code.

    Raises:
      OSError: the folder cannot be made, or other users can write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if stat.S_ISLNK(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise OSError(f"other users can write there (mode {stat.S_IMODE(about.st_mode):o}, user {about.st_uid})")


def writable(name: str) -> pathlib.Path | None:
    """Makes the folder `name` in root(), or in temporary() if root() cannot be written to.

    Returns:
      The folder; None if it can be made nowhere, which the log says once.
    """
    problems: list[str] = []
    for place in (root(), temporary()):
        try:
            make_own(place)
            make_own(place / name)
            with tempfile.TemporaryFile(dir=place / name) as probe:  # a read-only or full disk may hold the folder
                probe.write(bytes(4096))
            if problems:
                _tell(f"what is kept for the next start lies in {place}, because of {problems[0]}; {ADVICE}")
            return place / name
        except OSError as error:
            problems.append(f"{place}: {error.strerror or one_line(error)}")  # the same for each `name`
    _tell(f"nothing can be kept for the next start ({'; '.join(problems)}); {ADVICE}")
    return None


@functools.cache
def _tell(sentence: str) -> None:
    log.warning("%s", sentence)


def without_home() -> None:
    """Gives matplotlib, which TFDS imports too, a folder for its settings if the user has no home folder that can be written to."""
    where = home()
    if "MPLCONFIGDIR" not in os.environ and not (where and os.access(where, os.W_OK)):
        folder = writable("matplotlib")
        if folder:
            os.environ["MPLCONFIGDIR"] = str(folder)
