"""Being told to stop: SIGTERM (or Ctrl-C) lets the step end, saves and leaves with exit code 75, in all processes together.

A process that is told raises its flag at its next step; the step sums the flags of all, so that every process reads the same sum after the
same step. A process whose data fail raises the flag higher and goes on with blank images for the steps that the others have begun.
"""

import signal
import threading

import jax

from bnext_jax.errors import UserError

EXIT_CODE = 75  # BSD's EX_TEMPFAIL: start again
GO, STOP, FAILED = 0, 1, 2**16  # FAILED outweighs the STOP of all processes


class Stopped(Exception):
    """The run was told to stop; what it had done is saved."""


class Preemption:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    Attributes:
      requested: whether this process was told to stop.
    """

    def __init__(self):
        self.requested = False
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class Flags:
    """The flag of each step, put on the devices once a value.

    shardings: training.mesh.Shardings.
    """

    def __init__(self, shardings):
        self._shardings, self._made = shardings, {}

    def __call__(self, value):
        if value not in self._made:
            self._made[value] = self._shardings.put_flag(value)
        return self._made[value]


class Feed:
    """Batches with each step's flag; blank ones, once the data fail in one of several processes, until all of them know it.

    Args:
      batches: an iterator of them, on the devices. blank: a function that makes one without content. flag: Flags.
      stop: Preemption, or None where nothing interrupts.
    Attributes:
      failure: what made this process's data fail, or None.
    """

    def __init__(self, batches, blank, flag, stop):
        self._batches, self._blank, self._flag, self._stop = batches, blank, flag, stop
        self.failure = None

    def __next__(self):
        """(batch, flag). Raises whatever the data raise where this process is alone."""
        if self.failure is None:
            try:
                asked = STOP if self._stop is not None and self._stop.requested else GO
                return next(self._batches), self._flag(asked)
            except Exception as error:
                if jax.process_count() == 1:
                    raise
                self.failure = error
        return self._blank(), self._flag(FAILED)

    def check(self, total):
        """Raises, in all processes, where a step's sum of flags says that one failed; a lower sum than FAILED tells of wishes to stop."""
        if total >= FAILED:
            raise self.failure or UserError("another process of the run stopped, see its output; start all again")
