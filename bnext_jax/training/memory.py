"""The memory of a training step per device: what it will hold, before it is compiled, and what it was compiled to."""

import logging
import math

import jax

from bnext_jax.errors import UserError, one_line
from bnext_jax.host import process

log = logging.getLogger(__name__)
GIB = 2**30


def bytes_per_device(tree):
    """Bytes that one device holds of a tree of arrays, or of jax.ShapeDtypeStruct, with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def planned(state, batch, teachers):
    """{"parameters", "statistics", "optimizer", "teachers", "batch"}: bytes per device, of arrays or their shapes with shardings."""
    return {
        "parameters": bytes_per_device(state["params"]),
        "statistics": bytes_per_device(state["batch_stats"]),
        "optimizer": bytes_per_device(state["opt_state"]),
        "teachers": bytes_per_device(teachers),
        "batch": bytes_per_device(batch),
    }


def compiled_bytes(compiled):
    """{"arguments", "temporaries", "peak"} of a compiled step, bytes per device; outputs that take the arguments' place count once."""
    found = compiled.memory_analysis()
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    fresh = max(found.output_size_in_bytes - found.alias_size_in_bytes, 0)
    return {"arguments": arguments, "temporaries": temporaries, "peak": arguments + temporaries + fresh}


def device_bytes():
    """Bytes that one device has: its memory; on CPUs the machine's, shared out among this process's devices. None if unknown."""
    devices = jax.local_devices()
    statistics = devices[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    if devices[0].platform != "cpu":
        return None
    total = process.memory_bytes()
    return total and total // len(devices)


def size_text(size):
    """Bytes as text: "3.25 GiB", "118 MiB"."""
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / 2**20:.3g} MiB"


def text(sizes):
    """{name: bytes} as text: "parameters 118 MiB, batch 9.19 MiB"."""
    return ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items())


def what_fits(config, devices, per_image, free):
    """Text: the settings under which a step would fit.

    Args:
      config: the run's. devices: their number. per_image: bytes of temporaries and batch for each image on a device.
      free: bytes of a device beside the state and teachers; None = unknown, then a half of the present piece is proposed.
    """
    share, group = config.batch_size // devices, config.batch_norm_group
    room = share // config.accumulate // 2 if free is None else int(free / per_image) if free > 0 else 0
    if room < 1:
        return "--config.mesh=data=1,shard=N over N devices, which splits the state, or a smaller network"
    pieces = [count for count in range(2, share + 1) if share % count == 0 and share // count <= room]
    same = next((count for count in pieces if group and (share // count) % group == 0), None)
    smaller = f"--config.batch_size={devices * share // pieces[0]}" if pieces else f"--config.batch_size={devices}"
    return f"--config.accumulate={same}, which gives the same result, or {smaller}" if same else smaller


def compile_within(jitted, arguments, config, devices):
    """Compiles a jitted step for its arguments and tells what it holds.

    Args:
      jitted: from step.compile_step. arguments: (state, batch, flag, teachers), arrays or shapes with shardings.
      config: the run's. devices: their number.
    Returns:
      The compiled step.
    Raises:
      UserError: it does not fit into a device's memory; says what would.
    """
    state, batch, _, teachers = arguments
    sizes, limit = planned(state, batch, teachers), device_bytes()
    log.info("memory of each device: %s%s", text(sizes), f", of {size_text(limit)}" if limit else "")
    held = sum(sizes.values()) - sizes["batch"]
    share = config.batch_size // devices
    try:
        compiled = jitted.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the training step does not fit into a device's memory ({one_line(error, 160)});"
            f" what may: {what_fits(config, devices, 1, None)}"
        ) from error
    found = compiled_bytes(compiled)
    log.info("the step is compiled: %s of each device", text(found))
    if limit and found["peak"] > limit:
        per_image = (found["peak"] - held) / (share / config.accumulate)
        raise UserError(
            f"the training step needs {size_text(found['peak'])} of each device, which has {size_text(limit)};"
            f" what would fit: {what_fits(config, devices, per_image, limit - held)}"
        )
    return compiled
