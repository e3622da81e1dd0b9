"""What a run records in its work directory: the log, TensorBoard files, and a profile of XLA."""

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import jax

from bnext_jax.errors import UserError, one_line
from bnext_jax.io import buckets
from bnext_jax.io.files import write_whole
from bnext_jax.io.logs import METRICS_FILE, read_metrics
from bnext_jax.io.paths import Path, to_path
from bnext_jax.training import cluster

log = logging.getLogger(__name__)
PROFILED_STEPS = 5
ADVICE = "free space or choose another --workdir"


class Profile:
    """Records XLA's profile of PROFILED_STEPS steps in WORKDIR/profile, for TensorBoard or Perfetto. Use as a context manager.

    Args:
      workdir: the run's folder.
      first: the first step to record; 0 = no profile.
    """

    def __init__(self, workdir: Path, first: int) -> None:
        self._folder, self._first, self._runs = workdir / "profile", first, False
        self._mirror = buckets.Mirror(self._folder)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._mirror.close()

    def _end(self):
        if self._runs:
            jax.profiler.stop_trace()
            self._runs = False
            self._mirror.send()
            log.info("XLA's profile is in %s", self._folder)

    def look(self, step: int) -> None:
        """Starts the recording at step `first` and ends it PROFILED_STEPS steps later. Call it before each step."""
        if self._first and step == self._first:
            jax.profiler.start_trace(self._mirror.local)
            self._runs = True
        elif step == self._first + PROFILED_STEPS:
            self._end()


class Writer:
    """Writes the log: one JSON line per call in the work directory, and TensorBoard files beside it. Only process 0 writes.

    Args:
      workdir: the run's folder.
      step: the step that the run resumes at. Log lines after it are dropped, because the run repeats those steps.
      tensorboard: whether to write TensorBoard files. Importing their writer takes seconds.
    Raises:
      UserError: the files cannot be written.
    """

    def __init__(self, workdir: os.PathLike | str, step: int, tensorboard: bool) -> None:
        self._path, self._mirror = to_path(workdir) / METRICS_FILE, buckets.Mirror(to_path(workdir))
        self._tensorboard: Any = None
        if not cluster.is_first():
            return
        self._lines = [line for line in read_metrics(workdir) if line["step"] <= step]
        with self._writing():
            self._rewrite()
            if tensorboard:
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
                from clu import metric_writers

                self._tensorboard = metric_writers.SummaryWriter(self._mirror.local)  # TensorFlow knows no gs://

    def _rewrite(self):
        """Rewrites the whole file atomically: buckets cannot append, and a reader never sees half a line."""
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self._lines), "log", ADVICE)

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # TensorFlow reports a full disk with its own exception types
            raise UserError(f"logs cannot be written to {self._path.parent} ({one_line(error)}); {ADVICE}") from error

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one log line: the numbers `values` after `step` steps. Raises UserError if it cannot be written."""
        if not cluster.is_first():
            return
        self._lines.append({"step": step, **values})
        with self._writing():
            self._rewrite()
            if self._tensorboard is not None:
                self._tensorboard.write_scalars(step, values)
                self._tensorboard.flush()
                self._mirror.send()

    def close(self) -> None:
        """Closes the TensorBoard files."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._mirror.close()
