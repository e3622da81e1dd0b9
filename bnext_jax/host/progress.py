"""Progress on standard error, with the remaining time: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30


def duration(seconds: float) -> str:
    """Formats seconds as text: "42 s", "3 min 05 s", "2 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Counts steps and shows the progress. Use as a context manager.

    Args:
      what: name of the task.
      total: number of all steps, with those done before.
      done: number of steps done before; they do not count for the estimate of the remaining time.
      unit: name of a step.
    """

    def __init__(self, what: str, total: int, done: int = 0, unit: str = "step") -> None:
        self.what, self.total, self.first, self.done, self.unit = what, total, done, done, unit
        self.start = self.last_line = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr, leave=None)
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Self:
        self._redirect.__enter__()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._redirect.__exit__(*error)
        self._bar.close()

    def remaining(self) -> str:
        """Returns the estimated time for the remaining steps as text, or "unknown" before the first step."""
        fresh = self.done - self.first
        if not fresh:
            return "unknown"
        return duration((time.monotonic() - self.start) / fresh * (self.total - self.done))

    def step(self) -> None:
        """Counts one more step. Without a terminal, logs a line after SECONDS_BETWEEN_LINES without one."""
        self.done += 1
        self._bar.update()
        if self._bar.disable and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.line(f"{self.unit} {self.done}/{self.total}")

    def line(self, text: str) -> None:
        """Logs `text` with the name of the task and the remaining time."""
        self.last_line = time.monotonic()
        log.info("%s: %s, %s left", self.what, text, self.remaining())
