"""Writes files atomically, so that a file is complete or missing; computes their checksums."""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator

from etils import epath

from bnext_jax.errors import UserError, one_line

CHUNK = 2**22  # bytes


@contextlib.contextmanager
def written_whole(path: os.PathLike | str, what: str, advice: str = "") -> Iterator[epath.Path]:
    """Writes a file or a folder atomically: yields a hidden path beside the target, and renames it to the target when the block ends.

    An existing file stays as it is until the rename. If the block fails, the hidden path is removed.

    Args:
      path: the target, on a disk or in a bucket.
      what: a word for the file, for the message.
      advice: what the user can do, for the message.
    Raises:
      UserError: the target cannot be written, or the block raises an exception. A UserError of the block passes unchanged.

    Example:
      with written_whole("a.txt", "file") as partial:
          partial.write_text("hello")
    """
    target = epath.Path(path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        _remove(partial)
        yield partial
        partial.replace(target)
    except BaseException as error:
        with contextlib.suppress(Exception):
            _remove(partial)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        reason = getattr(error, "strerror", None) or one_line(error)  # file systems of buckets raise their own types
        raise UserError(f"the {what} {path} cannot be written: {reason}{f'; {advice}' if advice else ''}") from error


def _remove(path):
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def write_whole(path: os.PathLike | str, content: str | bytes, what: str, advice: str = "") -> None:
    """Writes a file of text or bytes atomically. The other arguments are those of `written_whole`."""
    with written_whole(path, what, advice) as partial:
        (partial.write_bytes if isinstance(content, bytes) else partial.write_text)(content)


def checked_ending(output: os.PathLike | str, what: str, endings: Collection[str]) -> epath.Path:
    """The path of a file that will be written. Call it before the work starts.

    Args:
      output: path of the file.
      what: a word for the file, for the message.
      endings: the endings that the file may have, in lower case, for example (".png", ".svg").
    Raises:
      UserError: the path has another ending.
    """
    path = epath.Path(output)
    if path.suffix.lower() not in endings:
        raise UserError(f"the {what} {path} needs one of the endings {', '.join(endings)}")
    return path


def sha256(path: os.PathLike | str) -> str:
    """The sha256 of a file, on a disk or in a bucket, as hexadecimal text. Raises UserError if the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with epath.Path(path).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    return digest.hexdigest()
