"""Files that are whole or not there, and their checksums."""

import contextlib
import hashlib

from etils import epath

from bnext_jax.errors import UserError, one_line

CHUNK = 2**22  # bytes


@contextlib.contextmanager
def written_whole(path, what, advice=""):
    """Writes atomically: yields a hidden path beside the target for a file or folder, and renames it when the block ends.

    A file that was there stays until then. Where the block fails nothing is left of the new one.

    Args:
      path: of the target, here or in a bucket.
      what: a word for the message.
      advice: what to do, for the message.
    Raises:
      UserError: it cannot be written, or the block's own.
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
        reason = getattr(error, "strerror", None) or one_line(error)  # file systems of buckets have kinds of their own
        raise UserError(f"the {what} {path} cannot be written: {reason}{f'; {advice}' if advice else ''}") from error


def _remove(path):
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def write_whole(path, content, what, advice=""):
    """Writes text or bytes as a file, see written_whole."""
    with written_whole(path, what, advice) as partial:
        (partial.write_bytes if isinstance(content, bytes) else partial.write_text)(content)


def sha256(path):
    """The checksum of a file, here or in a bucket, as hexadecimal text. Raises UserError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with epath.Path(path).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error
    return digest.hexdigest()
