"""Paths as users write them, on a disk or in a bucket (gs://...): any characters, and "~"."""

import glob
import os
import stat
from collections.abc import Iterator

# Before etils: with TensorFlow installed, etils would open gs:// through TensorFlow's own client. gcsfs (the extra "gcs") is the one client
# that our tests run.
os.environ.setdefault("EPATH_USE_TF", "false")

from etils.epath.gpath import PosixGPath
from etils.epath.stat_utils import StatResult

from bnext_jax.errors import UserError

BUCKETS = ("gs", "s3", "az", "hf")  # etils takes the local folders /gs, /s3, ... for buckets
PATTERNS = "*?[]#"  # in a bucket's paths the client reads them as a pattern, or as a generation


def _glob(folder: PosixGPath, pattern: str) -> Iterator[PosixGPath]:
    """Yields the paths below a folder that match a pattern. The folder itself may contain "[", "*" and "?"."""
    for found in folder._backend.glob(os.path.join(glob.escape(folder._path_str), pattern)):
        yield folder._new(found)


# etils reads the folder's own characters as part of the pattern. So Orbax lost checkpoints in folders like "run[1]", and TFDS opened the
# dataset of another folder. This repairs both.
PosixGPath.glob = _glob


class Path(PosixGPath):
    """An epath.Path that knows whether it lies in a bucket. Orbax and `/` keep the type."""

    def absolute(self) -> "Path":
        """The path from the root of the file system. A path in a bucket has no other form."""
        return self if self.bucket else super().absolute()

    def stat(self) -> StatResult:
        """Facts on the file, see epath.Path.stat. Its owner's name is None if the machine does not know it, as in containers."""
        try:
            return super().stat()
        except KeyError:
            told = os.stat(self)
            return StatResult(stat.S_ISDIR(told.st_mode), told.st_size, int(told.st_mtime), None, None, told.st_mode)

    @property
    def bucket(self) -> bool:
        """Whether the path lies in a bucket."""
        return self._uri_scheme is not None


def to_path(name: os.PathLike | str, what: str = "") -> Path:
    """The path that a user named. "~" at its beginning is the user's home folder.

    Args:
      name: path of a file or folder, on a disk or in a bucket.
      what: the flag or field that names it, for the message.
    Returns:
      The path; it need not exist.
    Raises:
      UserError: no program here can use this path. It is empty; it has a zero byte, or bytes that are not UTF-8; it lies in the local
        folder /gs (or /s3, /az, /hf), in a bucket of another kind than gs://, or in a bucket with a pattern's characters in its path; or
        it begins with "~" and this user has no home folder.
    """
    text, told = os.fspath(name), f"{what} ".lstrip() + repr(os.fspath(name))
    if not text:
        raise UserError(f"{what or 'a path'} is empty; name a file or a folder")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{told} has bytes that are not UTF-8, which checkpoints cannot keep; rename the file or folder") from error
    if "\0" in text:
        raise UserError(f"{told} contains a zero byte; no file system allows it")
    scheme, remote, rest = text.partition("://")
    if not remote:
        text = os.path.expanduser(text)
        if text == "~" or text.startswith("~/"):
            raise UserError(f"{told} begins with ~, but this user has no home folder; write the whole path")
        if os.path.abspath(text).split("/")[1] in BUCKETS:
            raise UserError(f"{told} lies in a folder that is taken for a bucket; name it through a link in another folder")
    elif scheme != "gs" or not rest.strip("/"):
        raise UserError(f"{told} is no place that can be used; name a folder on a disk, or a bucket as gs://NAME/FOLDER")
    elif any(character in PATTERNS for character in rest):
        raise UserError(
            f"{told} contains one of the characters {' '.join(PATTERNS)}, which a bucket's client misreads; choose another name"
        )
    return Path(text)
