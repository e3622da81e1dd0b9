"""Files that are whole or not there."""

import contextlib

from etils import epath

from bnext_jax.errors import UserError, one_line


def write_whole(path, content, what):
    """Writes a file, here or in a bucket, that appears under its name when it is whole; one that was there stays until then.

    Args:
      path: of the file. content: text or bytes. what: a word for the message.
    Raises:
      UserError: it cannot be written; nothing is left then.
    """
    target = epath.Path(path)
    partial = target.with_name(f".{target.name}.partial")
    try:
        (partial.write_bytes if isinstance(content, bytes) else partial.write_text)(content)
        partial.replace(target)
    except Exception as error:  # file systems of buckets have kinds of their own
        with contextlib.suppress(Exception):
            partial.unlink(missing_ok=True)
        raise UserError(f"the {what} {path} cannot be written: {getattr(error, 'strerror', None) or one_line(error)}") from error
