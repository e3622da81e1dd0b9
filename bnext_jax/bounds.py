"""The largest whole numbers that a run can take, and the checks of the numbers of a configuration."""

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


def check_temperature(part: Any, network: str, takes: bool, epochs: int) -> None:
    """Checks the temperature of a configuration.

    Args:
      part: a TemperatureConfig, or None.
      network: name of the network.
      takes: whether the network takes a temperature.
      epochs: length of the run.
    Raises:
      UserError: a network without a temperature has a value that is not the default; else a value is out of range, or `part` is None.
    """
    if not takes:
        for field in () if part is None else dataclasses.fields(part):
            if (value := getattr(part, field.name)) != field.default:
                told = f"config.temperature.{field.name} is {value}, but {network} takes no temperature"
                raise UserError(f"{told}; leave it at its default, {field.default}")
        return
    if part is None:
        raise UserError(f"config.temperature is None, but {network} takes a temperature; leave the field out")
    share = part.exact_from
    if share is not None and not 0 <= share < 1:
        raise UserError(f"config.temperature.exact_from is {share}; it is a share of the run, in [0, 1)")
    if share is not None and share * epochs > epochs - 1:
        raise UserError(f"config.temperature.exact_from {share} leaves no whole epoch of {epochs} with exact signs; choose a smaller share")
    if not 0 < part.decay <= 1:
        raise UserError(f"config.temperature.decay is {part.decay}; it must lie in (0, 1]")


def check_optimizer(part: Any, epochs: int) -> None:
    """Checks the optimizer of a configuration and its schedule.

    Args:
      part: an OptimizerConfig.
      epochs: length of the run.
    Raises:
      UserError: a value is out of range, a field is set that the chosen schedule does not read, or the schedule has no end.
    """
    name = "config.optimizer"
    for field in ("learning_rate", "step_factor", "clip_norm"):
        if (value := getattr(part, field)) is not None and value <= 0:
            raise UserError(f"{name}.{field} is {value}; it must be positive")
    for field in ("beta1", "beta2"):
        if not 0 <= (rate := getattr(part, field)) < 1:
            raise UserError(f"{name}.{field} is {rate}; it must lie in [0, 1)")
    for field in ("warmup_rate", "final_rate", "decay_weights", "decay_rest", "epsilon"):
        if (value := getattr(part, field)) < 0:
            raise UserError(f"{name}.{field} is {value}; it must be 0 or more")
    readers = {"step_epochs": ("steps",), "step_factor": ("steps",), "ahead": ("linear",), "schedule_epochs": ("cosine", "linear")}
    for one in dataclasses.fields(part):
        if isinstance(value := getattr(part, one.name), float) and math.isinf(value):
            raise UserError(f"{name}.{one.name} is {value}; it must be a finite number")
        if part.name == "sgd" and one.name in ("beta2", "epsilon") and value != one.default:
            raise UserError(f"{name}.{one.name} is set, but sgd has no second moment; leave it out")
        schedules = readers.get(one.name, ())
        if schedules and value != one.default and part.schedule not in schedules:
            told = f"{name}.{one.name} is set, but only the schedule {' or '.join(schedules)} reads it"
            raise UserError(f"{told}; {name}.schedule is {part.schedule}")
    if list(part.step_epochs) != sorted(set(part.step_epochs)):
        raise UserError(f"{name}.step_epochs is {part.step_epochs}; the epochs must rise")
    end = part.schedule_epochs if part.schedule_epochs is not None else epochs
    if part.schedule in ("cosine", "linear") and part.warmup_epochs >= end:
        raise UserError(
            f"{name}.warmup_epochs is {part.warmup_epochs}, and the schedule {part.schedule} ends at epoch {end}; warm up for less"
        )
    if part.schedule == "linear" and part.ahead >= end - part.warmup_epochs:
        raise UserError(f"{name}.ahead is {part.ahead}; it must be less than the {end - part.warmup_epochs} epochs of the schedule")


def check_loss(part: Any, smoothing: float) -> None:
    """Checks the loss of a configuration.

    Args:
      part: a DistillConfig.
      smoothing: the label smoothing.
    Raises:
      UserError: assistants without a main teacher, a number out of range, or a number that the loss does not read.
    """
    if part.assistants and not part.main:
        raise UserError("config.distill.assistants are given without config.distill.main; name the main teacher too")
    if not 0 <= smoothing < 1:
        raise UserError(f"config.label_smoothing is {smoothing}; it is a share of a label, in [0, 1)")
    if smoothing and part.main and part.form != "labels":
        raise UserError(
            f"config.label_smoothing is {smoothing}, but the loss of config.distill.form={part.form} has no labels; leave it out"
        )
    if part.form in ("teacher", "labels") and not part.main:
        raise UserError(f"config.distill.form is {part.form}, but there is no config.distill.main; name the teacher, or leave the form out")
    if part.form == "labels" and not part.kl_weight and not part.attention_weight:
        raise UserError(
            "config.distill.kl_weight and attention_weight are both 0, so the teacher has no effect; leave out config.distill.main"
        )
    for field in dataclasses.fields(part):
        if not field.name.endswith("_weight"):
            continue
        value, told = getattr(part, field.name), f"config.distill.{field.name}"
        if not 0 <= value < math.inf:
            raise UserError(f"{told} is {value}; it must be 0 or more")
        if value != field.default and part.form != "labels":
            raise UserError(f"{told} is {value}, but only the form labels reads it; config.distill.form is {part.form}")
