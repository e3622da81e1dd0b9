"""The lock of a work directory: one run at a time. A run that was killed leaves no lock that keeps out its successor.

On a disk it is a lock of the system (flock) on WORKDIR/.lock. The system releases it when the process ends, however it ends.

A bucket has no such locks. There the lock is a numbered object WORKDIR/.lock/NNNNNN, made with "create only if missing". Its owner writes
it again every BEAT seconds. A newcomer watches the object with the highest number. If it changes, its owner lives, and the newcomer is
refused. If it does not change for STALE seconds, the newcomer makes the next number; of several newcomers only one can. An owner that
finds a higher number than its own has lost the lock and stops.
"""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
from typing import Any

from bnext_jax.errors import UserError, one_line
from bnext_jax.io import buckets
from bnext_jax.io.paths import Path

log = logging.getLogger(__name__)
LOCK = ".lock"
BEAT = 10.0  # seconds between two writes of a lock in a bucket
STALE = 60.0  # seconds without a write after which the lock's owner is taken for dead


def _owner() -> dict[str, Any]:
    """Returns JSON data that describes this process, for messages, and to tell whether it still lives."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return {"host": socket.gethostname(), "system": _system(), "process": os.getpid(), "since": since}


def _system():
    """Returns a text that is the same for processes that see each other's numbers, until the machine starts anew; "" if unknown."""
    try:
        return f"{pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _told(root: Path, content: str | bytes) -> str:
    """Returns text that names a lock and its owner."""
    try:
        owner = json.loads(content)
        name = f"process {owner['process']} on {owner['host']}, since {owner['since']}"
    except (ValueError, TypeError, KeyError):  # its owner has not written its name yet
        name = "another process"
    return f"{root} is locked by a run ({name})"


def _refused(root: Path, content: str | bytes) -> UserError:
    return UserError(f"{_told(root, content)}, which is still at work; wait for its end, stop it, or take another --workdir")


def _file_system(root: Path) -> str:
    """Returns the type of the file system that a folder lies in, as Linux names it; "" if that is unknown."""
    try:
        mounts = [line.split()[1:3] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    except OSError:  # not Linux
        return ""
    above = {os.path.realpath(root), *map(str, pathlib.Path(os.path.realpath(root)).parents)}
    return max(((len(place), kind) for place, kind in mounts if place in above), default=(0, ""))[1]


class DiskLock:
    """The lock of a work directory on a disk.

    Args:
      root: the work directory, which exists.
    Raises:
      UserError: another run holds the lock.
    """

    def __init__(self, root: Path) -> None:
        path, held = root / LOCK, False
        while not held:
            self._file = open(path, "a+")  # noqa: SIM115, close() closes it
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.seek(0)
                content = self._file.read()
                self._file.close()
                raise _refused(root, content) from error
            except OSError as error:
                log.warning("the file system of %s cannot lock files (%s): a second run in it would go unnoticed", root, one_line(error))
            with contextlib.suppress(FileNotFoundError):
                held = os.stat(path).st_ino == os.fstat(self._file.fileno()).st_ino
            if not held:  # its former owner removed the file after we had opened it
                self._file.close()
        self._path = path
        if _file_system(root).startswith("fuse."):
            log.warning("%s is mounted through FUSE: a second run on another machine would go unnoticed", root)
        self._file.truncate(0)
        self._file.write(json.dumps(_owner()))
        self._file.flush()

    def check(self) -> None:
        """Does nothing: a lock on a disk cannot be lost."""

    def abandon(self) -> None:
        """Releases the lock, without waiting for anything."""
        self.close()

    def close(self) -> None:
        """Releases the lock and removes its file."""
        self._path.unlink(missing_ok=True)  # while it is still locked: a newcomer that has opened the file finds out that it is gone
        self._file.close()


class BucketLock:
    """The lock of a work directory in a bucket.

    Args:
      root: the work directory.
    Raises:
      UserError: another run holds the lock.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._client, self._owner = root, buckets.client(root), _owner()
        self._number, self._beats = 1 + self._last_owner_gone(), 0
        try:
            self._write("create")
        except FileExistsError as error:  # another newcomer was faster
            raise _refused(root, self._read(self._number)) from error
        numbers = self._numbers()
        if numbers[-1] > self._number:  # others came and went while this one looked
            self._client.rm_file(self._object(self._number))
            raise _refused(root, self._read(numbers[-1]))
        for number in numbers[:-1]:
            with contextlib.suppress(FileNotFoundError):
                self._client.rm_file(self._object(number))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _object(self, number):
        return f"{self._root}/{LOCK}/{number:06d}"

    def _numbers(self):
        """Returns the numbers of all lock objects, ascending."""
        try:
            names = self._client.ls(f"{self._root}/{LOCK}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(int(name.rsplit("/", 1)[-1]) for name in names if name.rsplit("/", 1)[-1].isdigit())

    def _read(self, number):
        try:
            return self._client.cat_file(self._object(number))
        except FileNotFoundError:
            return b""

    def _last_owner_gone(self):
        """Returns the highest number; 0 if there is none. Raises UserError if its owner lives. Waits STALE seconds if that is unknown."""
        number = max(self._numbers(), default=0)
        content, began = self._read(number), time.monotonic()
        if not number or _gone(content):
            return number
        log.info("%s; waiting %.0f s to see whether it lives", _told(self._root, content), STALE)
        while time.monotonic() - began < STALE:
            time.sleep(min(1.0, STALE / 10))
            if self._read(number) != content or max(self._numbers(), default=0) != number:
                raise _refused(self._root, content)
        return number

    def _write(self, mode):
        self._beats += 1
        content = json.dumps({**self._owner, "beat": self._beats, "released": False}).encode()
        self._client.pipe_file(self._object(self._number), content, mode=mode)

    def _beat(self):
        while not self._end.wait(BEAT):
            with contextlib.suppress(Exception):  # the bucket does not answer; the next beat tries again
                self._write("overwrite")

    def check(self) -> None:
        """Looks whether this run still holds the lock.

        Raises:
          UserError: another run has taken it, because the bucket did not hear of this one for STALE seconds.
          Unreachable: the bucket does not answer or refuses.
        """
        if max(buckets.answered(self._root, self._numbers), default=0) > self._number:
            raise UserError(
                f"another run has taken over {self._root}, because this one did not reach the bucket for {STALE:.0f} s; stopping"
            )

    def close(self) -> None:
        """Releases the lock. The object stays, so that its number is never used again."""
        self.abandon()
        self._thread.join(buckets.SILENCE)
        released = json.dumps({**self._owner, "released": True}).encode()
        with contextlib.suppress(Exception):  # a bucket that does not answer: the lock becomes stale
            buckets.patient(self._root, lambda: self._client.pipe_file(self._object(self._number), released))

    def abandon(self) -> None:
        """Stops renewing the lock, without waiting for the bucket."""
        self._end.set()


def _gone(content: bytes) -> bool:
    """Whether a lock's owner has released it, or was a process of this machine that has ended."""
    try:
        owner = json.loads(content)
        if owner.get("released"):
            return True
        now = _owner()
        if not now["system"] or (owner["host"], owner["system"]) != (now["host"], now["system"]):
            return False
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return False
    return False


def lock(root: Path) -> DiskLock | BucketLock:
    """Locks a work directory until close() is called. Only process 0 of a run does this.

    Args:
      root: the work directory; on a disk it exists.
    Raises:
      UserError: another run holds the lock.
    """
    return buckets.patient(root, lambda: BucketLock(root)) if root.bucket else DiskLock(root)
