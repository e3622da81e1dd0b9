"""TPUs that are not here: chips and their published peaks, topologies, ahead-of-time compilation by libtpu, verdicts kept on disk."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import os
import pathlib
import re
import threading
import time

import jax

from bnext_jax.errors import UserError, one_line
from bnext_jax.host import process
from bnext_jax.host.progress import duration
from bnext_jax.io.files import write_whole
from bnext_jax.tpu.collectives import collectives, each_collective
from bnext_jax.tpu.traffic import hbm_bytes
from bnext_jax.training import memory

log = logging.getLogger(__name__)
VERDICT = 3  # changes with what a kept verdict holds
BEAT = 30  # seconds between signs of life of a compilation
GRADIENT_SHARE = 0.9  # of the gradients' numbers; the all-reduces that together carry as many are theirs


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip: HBM in GiB, bfloat16 TFLOP/s, memory bandwidth in GB/s."""

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
    """Chips that nobody needs to own. name: "v5e:4x4". chip: Chip. devices: JAX's descriptions. chips, hosts: their numbers."""

    name: str
    chip: Chip
    devices: tuple
    chips: int
    hosts: int


def topology(name):
    """The Topology of a name, "GENERATION:AxB" or "GENERATION:AxBxC".

    Raises UserError: libtpu is missing or another version than the one that JAX names; an unknown generation or size.
    """
    generation, colon, size = name.partition(":")
    if generation not in CHIPS or not colon or not re.fullmatch(r"[0-9]+(x[0-9]+){1,2}", size):
        raise UserError(f"topology {name!r} is not known; write GENERATION:SIZE with {', '.join(CHIPS)}, for example {', '.join(EXAMPLES)}")
    _check_libtpu()
    process.without_tpu()
    from jax.experimental import topologies

    try:
        with _quiet():
            devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(f"libtpu knows no topology {name!r} ({one_line(error, 160)}); for example {', '.join(EXAMPLES)}") from error
    chips = len({tuple(device.coords) for device in devices})
    return Topology(name, CHIPS[generation], tuple(devices), chips, len({device.process_index for device in devices}))


def wanted_libtpu():
    """The version of libtpu that the installed JAX names, "0.0.42"."""
    needs = next(line for line in importlib.metadata.requires("jax") if line.startswith("libtpu"))
    return re.search(r"==([0-9.]*[0-9])", needs)[1]


def _check_libtpu():
    wanted = wanted_libtpu()
    how = f"`pip install libtpu=={wanted}`"
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"plan compiles with libtpu, which is not installed; {how}")
    found = importlib.metadata.version("libtpu")
    if found != wanted and not found.startswith(f"{wanted}."):
        raise UserError(f"libtpu {found} is installed, jax {jax.__version__} works with {wanted}; {how}")


@contextlib.contextmanager
def _quiet():
    """Sends away what libtpu prints to standard error at its start, which tells of a machine without TPUs as of a failure."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def _signs_of_life(what):
    """Logs, while something long runs, that it does."""
    ended, began = threading.Event(), time.monotonic()

    def tell():
        while not ended.wait(BEAT):
            log.info("%s: %s so far", what, duration(time.monotonic() - began))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def cache_folder():
    """Where verdicts are kept: XDG_CACHE_HOME or ~/.cache, /bnext_jax/plan."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bnext_jax" / "plan"


def compiled(what, jitted, arguments, where, effort, parameters=None, rounds=1):
    """Compiles a program for a Topology, or finds what an earlier compilation of the same program said.

    Args:
      what: for messages. jitted, arguments: a jitted function and its abstract arguments with shardings on where.devices.
      where: Topology. effort: of jax_exec_time_optimization_effort, from -1.0 to 1.0.
      parameters: number of those whose gradients are reduced, or None. rounds: of the program's loop over the pieces of a batch.
    Returns:
      {"fits", "arguments", "temporaries", "peak" (bytes per device), "flops", "bytes_accessed" (per device; the compiler's count,
      one round of the loop), "hbm_bytes" (per device, all rounds; see traffic), "collectives", "gradient_all_reduces",
      "compile_seconds", "cached"};
      where it does not fit {"fits": False, "told": the compiler's sentence, "compile_seconds", "cached"}.
    """
    with jax.enable_x64(False), _effort(effort):
        log.info("%s: tracing", what)
        lowered = jitted.lower(*arguments)
        text = f"{lowered.as_text()} {where.name} {jax.__version__} {importlib.metadata.version('libtpu')} {effort} {VERDICT}"
        path = cache_folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
        with contextlib.suppress(OSError, ValueError):
            return {**json.loads(path.read_text()), "cached": True}
        began = time.monotonic()
        with _signs_of_life(f"{what}: compiling"):
            found = _compile(lowered, parameters, rounds)
    found["compile_seconds"] = round(time.monotonic() - began, 1)
    with contextlib.suppress(OSError, UserError):  # a verdict that cannot be kept is still one
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found), "verdict")
    return {**found, "cached": False}


@contextlib.contextmanager
def _effort(value):
    """Compiles with this effort, and without JAX's own cache of programs: it keeps those for absent devices and cannot read them again."""
    from jax.experimental.compilation_cache import compilation_cache

    settings = {"jax_exec_time_optimization_effort": value, "jax_enable_compilation_cache": False}
    before = {name: getattr(jax.config, name) for name in settings}

    def use(values):
        for name, wanted in values.items():
            jax.config.update(name, wanted)
        compilation_cache.reset_cache()  # it looks at the setting once

    use(settings)
    try:
        yield
    finally:
        use(before)


def _compile(lowered, parameters, rounds):
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


def _gradient_all_reduces(text, parameters):
    """How many of a program's all-reduces it takes, the largest first, to carry GRADIENT_SHARE of the gradients; 0 = they do not.

    Numbers count and not bytes: the compiler reduces gradients in bfloat16 where that is what they were computed in.
    """
    sizes = sorted((elements for kind, _, elements in each_collective(text) if kind == "all-reduce"), reverse=True)
    totals = list(itertools.accumulate(sizes))
    return next((number for number, total in enumerate(totals, start=1) if total >= GRADIENT_SHARE * parameters), 0)


def bounds(found, chip, devices_per_chip=1, rounds=1):
    """{"flops_seconds", "bytes_seconds", "limit", "seconds"}: what a step takes at least on one chip at its published peaks.

    found: of compiled(), per device. devices_per_chip: cores that JAX sees as devices; they share the chip's peaks. rounds: see compiled.
    """
    flops = rounds * devices_per_chip * found["flops"] / (chip.teraflops * 1e12)
    transfer = devices_per_chip * found["hbm_bytes"] / (chip.bandwidth * 1e9)
    return {
        "flops_seconds": flops,
        "bytes_seconds": transfer,
        "limit": "memory bandwidth" if transfer > flops else "arithmetic",
        "seconds": max(flops, transfer),
    }
