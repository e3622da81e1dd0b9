"""Work on paths in buckets: a deadline for a bucket that does not answer, and copies between buckets and disks."""

import contextlib
import functools
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fsspec
from fsspec.config import conf

from bnext_jax.errors import Unreachable, UserError, one_line
from bnext_jax.host.process import needs
from bnext_jax.io.paths import Path

SILENCE = 30  # seconds without an answer, after which a bucket counts as unreachable
PROBE = 5  # seconds between the small requests that ask whether a bucket still answers
ADVICE = "check its name, the network and the credentials, or mount the bucket with gcsfuse and name the mounted folder"

for _protocol in ("gcs", "gs"):  # TensorStore writes past gcsfs, so a kept listing would be old
    conf.setdefault(_protocol, {})["use_listings_cache"] = False


def client(place: Path) -> fsspec.AbstractFileSystem:
    """The client of a path's bucket. Raises UserError if its package is not installed."""
    try:
        return place._backend.fs(place)
    except ImportError as error:
        raise UserError(f"{place} {needs('gcsfs')}") from error


class _Started:
    """Runs `work` in a thread that does not keep the process alive: clients of buckets retry for minutes and cannot be stopped."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._work, self._thread = work, threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.result = self._work()
        except BaseException as error:
            self.error = error

    def ended(self, seconds: float) -> bool:
        """Waits for the work, not longer than `seconds`. Returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


def patient(place: Path, work: Callable[[], Any]) -> Any:
    """Returns work(). Waits as long as the path's bucket answers small requests; a path on a disk is not watched.

    Args:
      place: a path in the bucket that `work` reads or writes.
      work: a function without arguments.
    Raises:
      Unreachable: the bucket has not answered for SILENCE seconds.
      Exception: whatever work() raises.
    """
    if not place.bucket:
        return work()
    client(place)
    main, probe, heard = _Started(work), None, time.monotonic()
    reason = f"no answer within {SILENCE} s"
    while not main.ended(PROBE):
        probe = probe or _Started(place.exists)
        if probe.ended(0):
            if probe.error is None:
                heard = time.monotonic()
            else:
                reason = one_line(probe.error, 160)
            probe = None
        if time.monotonic() - heard > SILENCE:
            raise Unreachable(f"{place} cannot be reached ({reason}); {ADVICE}")
    if main.error is not None:
        raise main.error
    return main.result


def answered(place: Path, work: Callable[[], Any], errors: tuple[type[Exception], ...] = (Exception,)) -> Any:
    """Like `patient`, but errors of the bucket's client become Unreachable.

    Args:
      place: a path; nothing changes for errors on a disk.
      work: what to do.
      errors: what the client raises. The default suits work that only a bucket can spoil: each client has its own exception types.
    """
    try:
        return patient(place, work)
    except UserError:
        raise
    except errors as error:
        if not place.bucket:
            raise
        raise Unreachable(f"{place} cannot be reached ({one_line(error, 160)}); {ADVICE}") from error


def watched(place: Path | None, items: Iterator[Any]) -> Iterator[Any]:
    """Yields `items`, and waits for each as `answered` does.

    Args:
      place: a path in the bucket that the items come from; None or a path on a disk is not watched.
      items: an iterator.
    Raises:
      Unreachable: the bucket has not answered for SILENCE seconds, or refuses.
    """
    if place is None or not place.bucket:
        yield from items
        return
    end = object()
    while (item := answered(place, lambda: next(items, end), (OSError, RuntimeError))) is not end:  # array_record: RuntimeError
        yield item


def check(place: Path, what: str) -> None:
    """Checks that a path's bucket answers. Does nothing for a path on a disk.

    Args:
      place: the path; it need not exist.
      what: the flag or field that names it, for the message.
    Raises:
      UserError: the bucket refuses the request, or its client is not installed.
      Unreachable: it does not answer within SILENCE seconds.
    """
    try:
        patient(place, place.exists)
    except Unreachable as error:
        raise Unreachable(f"{what} {error}") from error
    except UserError:
        raise
    except Exception as error:  # each client has its own exception types
        raise UserError(f"{what} {place} cannot be reached ({one_line(error, 160)}); {ADVICE}") from error


def _get(place: Path, beside: Iterable[str], folder: str) -> None:
    for source in (place, *filter(Path.exists, map(place.with_name, beside))):
        client(source).get_file(str(source), f"{folder}/{source.name}")


@contextlib.contextmanager
def local_copy(place: Path, beside: Iterable[str] = ()) -> Iterator[pathlib.Path]:
    """Yields a file on a disk: the file itself, or a copy of a file in a bucket for as long as the block runs.

    A UserError of the block names the files in the bucket, not the copies.

    Args:
      place: the file.
      beside: names of files in the same folder that are copied too, where they exist.
    Raises:
      UserError: the bucket's file cannot be read.
      Unreachable: the bucket does not answer.
    """
    if not place.bucket:
        yield pathlib.Path(place)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / place.name
        try:
            patient(place, functools.partial(_get, place, beside, folder))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{place} cannot be read: {one_line(error)}") from error
        try:
            yield copy
        except UserError as error:
            raise type(error)(str(error).replace(f"{folder}/", f"{place.parent}/")) from error


def upload(source: pathlib.Path, target: Path, last: str = "") -> None:
    """Copies a file, or all files of a folder, from a disk into a bucket. An object of a bucket is whole or missing.

    Args:
      source: a file or a folder on a disk.
      target: the path in the bucket.
      last: name of the files that are copied after all others, because readers take a folder with them for whole.
    """
    if source.is_file():
        client(target).put_file(str(source), str(target))
        return
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: (path.name == last, -len(path.parts))):
        client(target).put_file(str(path), str(target / path.relative_to(source).as_posix()))


class Mirror:
    """A folder for programs that can write only on disks: the folder itself, or for a bucket a temporary folder that `send` copies.

    Args:
      folder: on a disk or in a bucket.
    Attributes:
      local: where the program writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temporary = tempfile.TemporaryDirectory() if folder.bucket else None
        self.local = str(folder) if self._temporary is None else self._temporary.name

    def send(self) -> None:
        """Copies all files into the bucket. Raises Unreachable if it does not answer or refuses."""
        if self._temporary is not None:
            answered(self._folder, lambda: upload(pathlib.Path(self.local), self._folder))

    def close(self) -> None:
        """Removes the temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()
