"""The work directory of a run: locks it, makes it, or checks that it belongs to the same run."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from bnext_jax.config import Config
from bnext_jax.config_json import changed_fields, to_json
from bnext_jax.errors import MachineLost, Unreachable, UserError, one_line
from bnext_jax.io import buckets, checkpoint, compiled
from bnext_jax.io.files import write_whole
from bnext_jax.io.paths import Path, to_path
from bnext_jax.training import cluster
from bnext_jax.training.lock import LOCK, BucketLock, DiskLock, lock

log = logging.getLogger(__name__)
CONFIG_FILE = "config.json"
PARTIAL = f".{CONFIG_FILE}.partial"  # what a killed process leaves while it writes CONFIG_FILE


class Claim:
    """A work directory that this run has locked. Only process 0 locks it. Use as a context manager: leaving it releases the lock.

    A run without a checkpoint has nothing to lose, so all its settings may change.

    Args:
      workdir: the folder, on a disk or in a bucket (gs://...).
      config: the run's configuration, which is written into the folder.
    Attributes:
      folder: the folder's path.
    Raises:
      UserError: no folder is given, it cannot be made, reached or written, it holds other files, another run is at work in it, or it
        holds a run with checkpoints and other values in fields that may not change (the message names all of them).
    """

    def __init__(self, workdir: os.PathLike | str, config: Config) -> None:
        if not workdir:
            raise UserError("--workdir is missing; name the folder for checkpoints and logs")
        self.folder = to_path(workdir, "--workdir")
        self._lock: DiskLock | BucketLock | None = None
        buckets.check(self.folder, "--workdir")
        if not cluster.is_first():
            return
        try:
            with _told(self.folder):
                _check_foreign(self.folder)
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = lock(self.folder)
                _check_settings(self.folder, config)
                write_whole(self.folder / CONFIG_FILE, json.dumps(to_json(config), indent=1), "configuration")
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises UserError if another run has taken the folder, see lock.BucketLock."""
        if self._lock is not None:
            self._lock.check()

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock is not None and kind in (MachineLost, Unreachable):
            self._lock.abandon()
        else:
            self.close()


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    """Turns an error of the file system into a UserError that names the folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # file systems of buckets raise their own types
        raise UserError(f"the work directory {root} cannot be used: {one_line(error)}") from error


def _check_foreign(root: Path) -> None:
    """Raises UserError if the folder holds files, but neither a run nor what a run leaves that was killed at its start."""
    if not root.exists() or checkpoint.steps_in(root):
        return
    if not root.is_dir():
        raise UserError(f"the work directory {root} is a file; name a folder")
    entries = {entry.name for entry in root.iterdir()} - {LOCK, PARTIAL, compiled.FOLDER}
    ours = CONFIG_FILE in entries and ((root / CONFIG_FILE).stat().length == 0 or _is_ours(_saved(root)))
    if entries and not ours:
        raise UserError(f"{root} is not empty and holds no bnext run; take a new or empty folder as --workdir")


def _saved(root: Path) -> Any:
    """Returns the JSON data of the configuration's file; None if the file is missing, empty or damaged."""
    try:
        return json.loads((root / CONFIG_FILE).read_text())
    except (ValueError, FileNotFoundError):  # ValueError: also for bytes that are no text
        return None


def _is_ours(saved: Any) -> bool:
    """Whether JSON data are a configuration of ours."""
    return isinstance(saved, dict) and {"model", "data", "epochs"} <= saved.keys()


def _check_settings(root: Path, config: Config) -> None:
    """Raises UserError if the folder holds checkpoints of a run with other settings.

    The checkpoints hold the settings too. So a missing or damaged CONFIG_FILE is written anew.
    """
    if not checkpoint.steps_in(root):
        return
    saved = _saved(root)
    if not _is_ours(saved):
        log.warning("%s is missing or damaged; its settings are taken from the newest checkpoint", root / CONFIG_FILE)
        saved = checkpoint.describe(root)["config"]
        if saved is None:
            raise UserError(f"{root} holds a network that no run here trained; take another --workdir, and name this one as config.init")
    changed = changed_fields(saved, config)
    if changed:
        raise UserError(f"{root} holds a run with other settings: {', '.join(changed)}; take another --workdir or the old settings")


def check_shared(root: Path, config: Config) -> None:
    """Checks that this process sees the same work directory as process 0, by the configuration in it.

    Args:
      root: the folder of a Claim.
      config: the run's configuration.
    Raises:
      UserError: the configuration is missing there or is another one.
    """
    if not (root / CONFIG_FILE).exists() or _saved(root) != to_json(config):
        raise UserError(f"the work directory {root} is not the same folder in all processes; name one that all of them reach (gs://...)")
