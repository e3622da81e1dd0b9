"""Compiles programs for TPUs without a TPU, by libtpu: chips and their published peaks, topologies, a cache of verdicts on disk."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from bnext_jax.errors import UserError, one_line
from bnext_jax.host import cache, process
from bnext_jax.host.progress import duration
from bnext_jax.io.files import write_whole
from bnext_jax.tpu.collectives import collectives, each_collective
from bnext_jax.tpu.traffic import hbm_bytes
from bnext_jax.training import memory

log = logging.getLogger(__name__)
VERDICT = 3  # version of the cached verdicts; raise it when their content changes
BEAT = 30  # seconds between two log lines of a running compilation
GRADIENT_SHARE = 0.9  # the largest all-reduces that together carry this share of the gradients' elements count as the gradients'


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip.

    Attributes:
      hbm: memory (HBM), in GiB.
      teraflops: arithmetic in bfloat16, in TFLOP/s.
      bandwidth: bandwidth of the memory, in GB/s (1e9 bytes).
      source: page with these figures.
    """

    hbm: float
    teraflops: float
    bandwidth: float
    source: str


CHIPS = {
    "v4": Chip(32, 275, 1228, "cloud.google.com/tpu/docs/v4"),
    "v5e": Chip(16, 197, 819, "cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip(95, 459, 2765, "cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip(32, 918, 1640, "cloud.google.com/tpu/docs/v6e"),
}
EXAMPLES = ("v4:2x2x4", "v5e:2x2", "v5e:4x4", "v5p:2x2x4", "v6e:2x2", "v6e:4x4")


@dataclasses.dataclass(frozen=True)
class Topology:
    """A TPU slice, described by libtpu; the hardware need not exist here.

    Attributes:
      name: as given, for example "v5e:4x4".
      chip: peaks of one chip.
      devices: JAX's descriptions of the devices.
      chips: number of chips.
      hosts: number of hosts.
    """

    name: str
    chip: Chip
    devices: tuple
    chips: int
    hosts: int


def topology(name: str) -> Topology:
    """Describes a TPU slice.

    Args:
      name: "GENERATION:AxB" or "GENERATION:AxBxC", for example "v5e:2x4".
    Returns:
      Topology.
    Raises:
      UserError: libtpu is missing, or its version is not the one that JAX requires; the generation or the size is unknown.
    """
    generation, colon, size = name.partition(":")
    if generation not in CHIPS or not colon or not re.fullmatch(r"[0-9]+(x[0-9]+){1,2}", size):
        raise UserError(f"topology {name!r} is not known; write GENERATION:SIZE with {', '.join(CHIPS)}, for example {', '.join(EXAMPLES)}")
    _check_libtpu()
    process.without_tpu()
    from jax.experimental import topologies

    try:
        with _quiet():
            devices: list[Any] = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(f"libtpu knows no topology {name!r} ({one_line(error, 160)}); for example {', '.join(EXAMPLES)}") from error
    chips = len({tuple(device.coords) for device in devices})
    return Topology(name, CHIPS[generation], tuple(devices), chips, len({device.process_index for device in devices}))


def wanted_libtpu() -> str:
    """The version of libtpu that the installed JAX requires, for example "0.0.42"."""
    needs = next(line for line in importlib.metadata.requires("jax") or () if line.startswith("libtpu"))
    return needs.partition("==")[2].partition(";")[0].strip().rstrip(".*")


def _check_libtpu() -> None:
    """Raises UserError unless the libtpu that JAX requires is installed."""
    wanted = wanted_libtpu()
    how = f"`pip install libtpu=={wanted}`"
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"plan compiles with libtpu, which is not installed; {how}")
    found = importlib.metadata.version("libtpu")
    if found != wanted and not found.startswith(f"{wanted}."):
        raise UserError(f"libtpu {found} is installed, jax {jax.__version__} works with {wanted}; {how}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discards standard error. At its start libtpu reports a machine without TPUs there, as if that were an error."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def _signs_of_life(what: str) -> Iterator[None]:
    """Logs every BEAT seconds that `what` still runs."""
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(BEAT):
            log.info("%s: %s so far", what, duration(time.monotonic() - began))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def compiled(
    what: str, jitted: Any, arguments: tuple, where: Topology, effort: float, parameters: int | None = None, rounds: int = 1
) -> dict[str, Any]:
    """Compiles a program for a topology, or reads the verdict of an earlier compilation of the same program from the cache.

    Args:
      what: the program's name, for messages.
      jitted: a jitted function.
      arguments: its abstract arguments, with shardings on where.devices.
      where: the topology to compile for.
      effort: value of jax_exec_time_optimization_effort, from -1.0 to 1.0.
      parameters: number of parameters whose gradients the program reduces; None = it reduces none.
      rounds: iterations of the program's loop over the pieces of a batch.
    Returns:
      If the program fits, a dict of:
        "fits": True.
        "arguments", "temporaries", "peak": bytes per device.
        "flops", "bytes_accessed": per device, as the compiler counts them, one iteration of the loop.
        "hbm_bytes": per device, all iterations, see traffic.hbm_bytes.
        "collectives": see collectives.collectives.
        "gradient_all_reduces": number of all-reduces that carry the gradients; None without `parameters`.
        "compile_seconds": duration of the compilation, also where the verdict is cached.
        "cached": whether the verdict comes from the cache.
      Else {"fits": False, "told": the compiler's message, "compile_seconds", "cached"}.
    """
    with jax.enable_x64(False), _effort(effort):
        log.info("%s: tracing", what)
        lowered = jitted.lower(*arguments)
        text = f"{lowered.as_text()} {where.name} {jax.__version__} {importlib.metadata.version('libtpu')} {effort} {VERDICT}"
        path = cache.root() / "plan" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
        with contextlib.suppress(OSError, ValueError):
            return {**json.loads(path.read_text()), "cached": True}
        began = time.monotonic()
        with _signs_of_life(f"{what}: compiling"):
            found = _compile(lowered, parameters, rounds)
    found["compile_seconds"] = round(time.monotonic() - began, 1)
    with contextlib.suppress(OSError, UserError):  # the verdict holds even where it cannot be cached
        cache.make_own(cache.root())
        cache.make_own(path.parent)
        write_whole(path, json.dumps(found), "verdict")
    return {**found, "cached": False}


@contextlib.contextmanager
def _effort(value: float) -> Iterator[None]:
    """Sets the compiler's effort, and turns off JAX's own compilation cache.

    That cache writes programs for absent devices, but cannot read them back.
    """
    from jax.experimental.compilation_cache import compilation_cache

    settings = {"jax_exec_time_optimization_effort": value, "jax_enable_compilation_cache": False}
    before = {name: getattr(jax.config, name) for name in settings}

    def use(values: Mapping[str, Any]) -> None:
        for name, wanted in values.items():
            jax.config.update(name, wanted)
        compilation_cache.reset_cache()  # the cache reads the setting only at its first use

    use(settings)
    try:
        yield
    finally:
        use(before)


def _compile(lowered: Any, parameters: int | None, rounds: int) -> dict[str, Any]:
    """Compiles a lowered program; see compiled for the result, which lacks "compile_seconds" and "cached"."""
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "told": one_line(error, 300)}
    cost, text = program.cost_analysis(), program.as_text()
    return {
        "fits": True,
        **memory.compiled_bytes(program),
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "hbm_bytes": hbm_bytes(text, rounds),
        "collectives": collectives(text),
        "gradient_all_reduces": _gradient_all_reduces(text, parameters) if parameters else None,
    }


def _gradient_all_reduces(text: str, parameters: int) -> int:
    """The number of all-reduces, largest first, that together carry GRADIENT_SHARE of the gradients; 0 if all together carry less.

    Counts elements, not bytes: the compiler reduces gradients in bfloat16 where they were computed in bfloat16.
    """
    sizes = sorted((elements for kind, _, elements in each_collective(text) if kind == "all-reduce"), reverse=True)
    totals = list(itertools.accumulate(sizes))
    return next((number for number, total in enumerate(totals, start=1) if total >= GRADIENT_SHARE * parameters), 0)


def bounds(found: Mapping[str, Any], chip: Chip, devices_per_chip: int = 1, rounds: int = 1) -> dict[str, Any]:
    """Lower bounds of the duration of a step at the chip's published peaks.

    Args:
      found: the verdict of compiled(), per device.
      chip: peaks of one chip.
      devices_per_chip: number of cores of a chip that JAX sees as devices; they share the chip's peaks.
      rounds: see compiled.
    Returns:
      {"flops_seconds": bound by arithmetic, "bytes_seconds": bound by memory bandwidth, "limit": "memory bandwidth" or "arithmetic",
      "seconds": the larger bound}.
    """
    flops = rounds * devices_per_chip * found["flops"] / (chip.teraflops * 1e12)
    transfer = devices_per_chip * found["hbm_bytes"] / (chip.bandwidth * 1e9)
    return {
        "flops_seconds": flops,
        "bytes_seconds": transfer,
        "limit": "memory bandwidth" if transfer > flops else "arithmetic",
        "seconds": max(flops, transfer),
    }
