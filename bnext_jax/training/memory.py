"""Device memory of a training step: the estimate before compilation, and the compiled program's own figures."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import jax

from bnext_jax.config import Config
from bnext_jax.errors import UserError, one_line
from bnext_jax.host import process

log = logging.getLogger(__name__)
GIB = 2**30


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes that one device holds of a tree.

    Args:
      tree: arrays or jax.ShapeDtypeStruct, each with a sharding.
    """
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def planned(state: Mapping[str, Any], batch: Any, teachers: Any) -> dict[str, int]:
    """Returns the bytes per device of the arguments of the training step.

    Args:
      state: training state, arrays or jax.ShapeDtypeStruct with shardings.
      batch: training batch, likewise.
      teachers: {role: variables}, likewise.
    Returns:
      {"parameters", "statistics", "optimizer", "teachers", "batch"}, in bytes.
    """
    return {
        "parameters": bytes_per_device(state["params"]),
        "statistics": bytes_per_device(state["batch_stats"]),
        "optimizer": bytes_per_device(state["opt_state"]),
        "teachers": bytes_per_device(teachers),
        "batch": bytes_per_device(batch),
    }


def compiled_bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns {"arguments", "temporaries", "peak"} of a compiled step, in bytes per device.

    An output that reuses the memory of a donated argument counts once.
    """
    found: Any = compiled.memory_analysis()
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    fresh = max(found.output_size_in_bytes - found.alias_size_in_bytes, 0)
    return {"arguments": arguments, "temporaries": temporaries, "peak": arguments + temporaries + fresh}


def device_bytes() -> int | None:
    """Returns the memory of one device in bytes, or None if it is unknown.

    On CPUs this is the memory of the machine divided by the number of devices of this process.
    """
    devices = jax.local_devices()
    statistics = devices[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    if devices[0].platform != "cpu":
        return None
    total = process.memory_bytes()
    return total and total // len(devices)


def size_text(size: float) -> str:
    """Formats a number of bytes: "3.25 GiB", "118 MiB"."""
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / 2**20:.3g} MiB"


def text(sizes: Mapping[str, float]) -> str:
    """Formats {name: bytes}: "parameters 118 MiB, batch 9.19 MiB"."""
    return ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items())


def what_fits(config: Config, devices: int, per_image: float, free: float | None) -> str:
    """Proposes settings with which the step fits into memory.

    A piece is the part of a device's batch that the step computes at once (config.accumulate = number of pieces).

    Args:
      config: configuration of the run.
      devices: number of devices.
      per_image: bytes of temporaries and batch per image on a device.
      free: bytes of a device that the state and the teachers leave free; None = unknown: proposes pieces of half the present size.
    Returns:
      Command-line flags, as text for a message.
    """
    share, group = config.batch_size // devices, config.batch_norm_group
    room = share // config.accumulate // 2 if free is None else int(free / per_image) if free > 0 else 0
    if room < 1:
        return "--config.mesh=data=1,shard=N over N devices, which splits the state, or a smaller network"
    pieces = [count for count in range(2, share + 1) if share % count == 0 and share // count <= room]
    same = next((count for count in pieces if group and (share // count) % group == 0), None)
    smaller = f"--config.batch_size={devices * share // pieces[0]}" if pieces else f"--config.batch_size={devices}"
    return f"--config.accumulate={same}, which gives the same result, or {smaller}" if same else smaller


def compile_within(jitted: jax.stages.Wrapped, arguments: tuple[Any, ...], config: Config, devices: int) -> jax.stages.Compiled:
    """Compiles a jitted step for its arguments and logs its memory.

    Args:
      jitted: from step.compile_step.
      arguments: (state, batch, flag, teachers), arrays or jax.ShapeDtypeStruct with shardings.
      config: configuration of the run.
      devices: number of devices.
    Returns:
      The compiled step.
    Raises:
      UserError: the step does not fit into the memory of a device; the message proposes settings that fit.
    """
    state, batch, _, teachers = arguments
    sizes, limit = planned(state, batch, teachers), device_bytes()
    log.info("memory per device, before compilation: %s%s", text(sizes), f", of {size_text(limit)}" if limit else "")
    held = sum(sizes.values()) - sizes["batch"]
    share = config.batch_size // devices
    try:
        compiled = jitted.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the training step does not fit into a device's memory ({one_line(error, 160)});"
            f" what may fit: {what_fits(config, devices, 1, None)}"
        ) from error
    found = compiled_bytes(compiled)
    log.info("memory per device, of the compiled step: %s", text(found))
    if limit and found["peak"] > limit:
        per_image = (found["peak"] - held) / (share / config.accumulate)
        raise UserError(
            f"the training step needs {size_text(found['peak'])} on each device, which has {size_text(limit)};"
            f" what would fit: {what_fits(config, devices, per_image, limit - held)}"
        )
    return compiled
