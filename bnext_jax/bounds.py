"""The largest whole numbers that a run can take, and the check of all numbers of a configuration."""

import dataclasses
import math
from typing import Any

from bnext_jax.errors import UserError

COUNT = 2**31 - 1  # JAX counts in int32
SEED = 2**32 - 1  # JAX makes keys from 32 bits, and silently leaves out the rest
SIDE = 2**15  # pixels; an image's pixels are counted in int32
BATCH, THREADS = 2**20, 2**10  # far more than any run needs; what is larger would only exhaust the memory
LARGEST = {"seed": SEED, "batch_size": BATCH, "eval_batch_size": BATCH, "data.threads": THREADS, "data.workers": THREADS}  # else COUNT


def check_numbers(part: Any, prefix: str = "") -> None:
    """Checks all numbers of a configuration, also those in tuples.

    Args:
      part: a Config, or one of its parts.
      prefix: "data." for config.data.
    Raises:
      UserError: a whole number is negative or too large, or a number is nan, which passes all comparisons.
    """
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            largest = LARGEST.get(name, COUNT)
            if isinstance(number, int) and number < 0:
                raise UserError(f"config.{name} is {value}; it must be 0 or more")
            if isinstance(number, int) and number > largest:
                raise UserError(f"config.{name} is {value}; it may be at most {largest}")
            if isinstance(number, float) and math.isnan(number):
                raise UserError(f"config.{name} is {value}, which is no number")
