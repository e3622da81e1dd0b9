"""Stops a run cleanly on SIGTERM or SIGINT (Ctrl-C): the step ends, the run saves, and all processes exit together with code 75.

A process that gets the signal sends a flag with its next step. The step sums the flags of all devices, so every process reads the same sum
after the same step. A process whose data fail sends a larger flag. It feeds blank images to the steps that the others have already begun.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax

from bnext_jax.errors import UserError

if TYPE_CHECKING:
    from bnext_jax.training.mesh import Shardings

EXIT_CODE = 75  # BSD's EX_TEMPFAIL: start the same command again
GO, STOP, FAILED = 0, 1, 2**16  # FAILED is larger than the sum of STOP over all devices


class Stopped(Exception):
    """The run was told to stop; its work is saved."""


class Preemption:
    """A context manager that notes SIGTERM and SIGINT. A second SIGINT raises KeyboardInterrupt at once.

    Attributes:
      requested: whether this process was told to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():  # Python sets signal handlers in the main thread only
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class Flags:
    """Makes the flag array of a step. Each value is put on the devices once and then reused.

    Args:
      shardings: where the flags lie.
    """

    def __init__(self, shardings: "Shardings") -> None:
        self._made: dict[int, jax.Array]
        self._shardings, self._made = shardings, {}

    def __call__(self, value: int) -> jax.Array:
        """Returns the array [devices] that holds `value` (GO, STOP or FAILED) for each device of this process."""
        if value not in self._made:
            self._made[value] = self._shardings.put_flag(value)
        return self._made[value]


class Feed:
    """Gives each step's batch with its flag.

    If the data fail in one of several processes, that process gives blank batches until all processes have read its flag.

    Args:
      batches: iterator of batches on the devices.
      blank: function without arguments that makes a batch without content.
      flag: makes the flag arrays.
      stop: tells whether this process was told to stop; None = nothing interrupts.
    Attributes:
      failure: the exception that this process's data raised, or None.
    """

    def __init__(self, batches: Iterator[Any], blank: Callable[[], Any], flag: Flags, stop: Preemption | None) -> None:
        self._batches, self._blank, self._flag, self._stop = batches, blank, flag, stop
        self.failure: Exception | None = None

    def __next__(self) -> tuple[Any, jax.Array]:
        """(batch, flag). With a single process, passes on any exception from the data."""
        if self.failure is None:
            try:
                asked = STOP if self._stop is not None and self._stop.requested else GO
                return next(self._batches), self._flag(asked)
            except Exception as error:
                if jax.process_count() == 1:
                    raise
                self.failure = error
        return self._blank(), self._flag(FAILED)

    def check(self, total: float) -> None:
        """Raises, in all processes, if the data of one process failed.

        Args:
          total: the sum of all devices' flags in a step. A sum below FAILED means that no data failed; processes may have asked to stop.
        Raises:
          Exception: this process's data failed; it is the exception of the data.
          UserError: the data of another process failed.
        """
        if total >= FAILED:
            raise self.failure or UserError("another process of the run stopped, see its output; start all processes again")
