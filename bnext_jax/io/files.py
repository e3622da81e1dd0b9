"""Writes files atomically, so that a file is complete or missing; computes their checksums."""

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Collection, Iterator

from bnext_jax.errors import Unreachable, UserError, one_line
from bnext_jax.io import buckets
from bnext_jax.io.paths import Path, to_path

CHUNK = 2**22  # bytes


@contextlib.contextmanager
def written_whole(target: os.PathLike | str, what: str, advice: str = "", last: str = "") -> Iterator[Path]:
    """Writes a file or a folder atomically: yields a hidden path beside the target, and renames it to the target when the block ends.

    An existing file stays as it is until the rename. If the block fails, the hidden path is removed. For a target in a bucket, the hidden
    path lies on a disk, and the file, or all files of the folder, are copied when the block ends.

    Args:
      target: the path to write, on a disk or in a bucket.
      what: a word for the file, for the message.
      advice: what the user can do, for the message.
      last: name of the files of a folder that are copied last into a bucket, see buckets.upload.
    Raises:
      UserError: the target cannot be written, or the block raises an exception. A UserError of the block passes unchanged.
      Unreachable: the bucket does not answer or refuses.

    Example:
      with written_whole("a.txt", "file") as partial:
          partial.write_text("hello")
    """
    place = to_path(target)
    with contextlib.ExitStack() as made:
        if place.bucket:
            buckets.client(place)
            partial = to_path(made.enter_context(tempfile.TemporaryDirectory())) / place.name
        else:
            partial = place.with_name(_partial_name(place.name))
        try:
            _remove(partial)
            yield partial
            if place.bucket:
                buckets.patient(place, lambda: buckets.upload(pathlib.Path(partial), place, last))
            else:
                partial.replace(place)
        except BaseException as error:
            with contextlib.suppress(Exception):
                _remove(partial)
            if isinstance(error, UserError) or not isinstance(error, Exception):
                raise
            reason = getattr(error, "strerror", None) or one_line(error)  # file systems of buckets raise their own types
            kind, told = (Unreachable, buckets.ADVICE) if place.bucket else (UserError, advice)
            raise kind(f"the {what} {place} cannot be written: {reason}{f'; {told}' if told else ''}") from error


def _partial_name(name):
    """A hidden name beside `name`. A file system allows 255 bytes."""
    return f".{name}.partial" if len(name.encode()) <= 240 else f".{hashlib.sha256(name.encode()).hexdigest()}.partial"


def _remove(partial):
    if partial.is_dir():
        partial.rmtree()
    else:
        partial.unlink(missing_ok=True)


def write_whole(target: os.PathLike | str, content: str | bytes, what: str, advice: str = "") -> None:
    """Writes a file of text or bytes atomically. The other arguments are those of `written_whole`."""
    with written_whole(target, what, advice) as partial:
        (partial.write_bytes if isinstance(content, bytes) else partial.write_text)(content)


def checked_ending(output: os.PathLike | str, what: str, endings: Collection[str]) -> Path:
    """The path of a file that will be written. Call it before the work starts.

    Args:
      output: path of the file.
      what: a word for the file, for the message.
      endings: the endings that the file may have, in lower case, for example (".png", ".svg").
    Raises:
      UserError: the path has another ending.
    """
    place = to_path(output)
    if place.suffix.lower() not in endings:
        raise UserError(f"the {what} {place} needs one of the endings {', '.join(endings)}")
    return place


def sha256(name: os.PathLike | str) -> str:
    """The sha256 of a file, on a disk or in a bucket, as hexadecimal text. Raises UserError if the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with to_path(name).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or one_line(error)}") from error
    return digest.hexdigest()
