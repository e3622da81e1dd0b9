"""Progress on standard error: a bar with the remaining time on a terminal, plain lines elsewhere."""

import logging
import sys
import time

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30


def duration(seconds):
    """Seconds as text: "42 s", "3 min 05 s", "2 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Counts steps. Use as a context manager.

    Args:
      what: a word for the task. total: steps in all. done: steps done before (they do not count for the estimate).
      unit: what a step is.
    """

    def __init__(self, what, total, done=0, unit="step"):
        self.what, self.total, self.first, self.done, self.unit = what, total, done, done, unit
        self.start = self.last_line = time.monotonic()
        self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr, leave=None)
        self._redirect = logging_redirect_tqdm()

    def __enter__(self):
        self._redirect.__enter__()
        return self

    def __exit__(self, *error):
        self._redirect.__exit__(*error)
        self._bar.close()

    def remaining(self):
        """Text: the estimated time for the steps that are left."""
        fresh = self.done - self.first
        if not fresh:
            return "unknown"
        return duration((time.monotonic() - self.start) / fresh * (self.total - self.done))

    def step(self):
        """One step is done."""
        self.done += 1
        self._bar.update()
        if self._bar.disable and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.line(f"{self.unit} {self.done}/{self.total}")

    def line(self, text):
        """Logs a line with the remaining time."""
        self.last_line = time.monotonic()
        log.info("%s: %s, %s left", self.what, text, self.remaining())
