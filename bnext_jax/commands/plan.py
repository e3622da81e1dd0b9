"""The command `plan`: checks whether a run fits a TPU slice, and computes lower bounds of its time.

It compiles the same programs as `train`, without a TPU.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnext_jax.analysis import tables
from bnext_jax.config import Config
from bnext_jax.tpu import aot
from bnext_jax.tpu.abstract import Facts, abstract_programs, facts
from bnext_jax.training import memory

DOES_NOT_FIT = 3  # exit code
QUICK, USERS = -1.0, 0.0  # compiler effort. QUICK: --quick, and the trials of --fit. USERS: what `train` uses
# Images per second that a worker decodes and augments on one core. It is the lowest rate in results/input_pipeline.json.
CORE_RATE = 536.5


def verdict(config: Config, where: aot.Topology, known: Facts, effort: float) -> dict[str, Any]:
    """Compiles a configuration's programs for one topology, and computes what `plan` reports about it.

    Args:
      config: a checked Config.
      where: the TPU slice.
      known: facts about the dataset.
      effort: of the compiler, from -1.0 to 1.0, see aot.compiled.
    Returns:
      {"chips", "hosts", "peaks", "batch_size", "teachers", "fits", "train", "evaluate"}. If the training step fits, also "bounds" and the
      figures that follow from them: rates are upper bounds, times are lower bounds.
    """
    made = abstract_programs(config, where, known)
    train = aot.compiled(f"{where.name}: training step", *made.train, where, effort, made.parameters, config.accumulate)
    evaluation = aot.compiled(f"{where.name}: evaluation", *made.evaluate, where, effort)
    found = {"chips": where.chips, "hosts": where.hosts, "peaks": dataclasses.asdict(where.chip),
             "batch_size": config.batch_size, "teachers": made.teachers,
             "fits": train["fits"] and evaluation["fits"], "train": train, "evaluate": evaluation}  # fmt: skip
    if not train["fits"]:
        return found
    cores = len(where.devices) // where.chips
    least = aot.bounds(train, where.chip, cores, config.accumulate)
    rate, share = config.batch_size / least["seconds"], config.batch_size / len(where.devices)
    piece = share / config.accumulate  # the compiler counts the body of a loop only once
    steps = known.images // config.batch_size
    host_rate = rate / where.hosts
    return {
        **found,
        "bounds": least,
        "gigaflops_per_image": train["flops"] / piece / 1e9,
        "megabytes_per_image": train["bytes_accessed"] / piece / 1e6,
        "hbm_megabytes_per_image": train["hbm_bytes"] / share / 1e6,
        "images_per_second_at_most": rate,
        "images_per_second_per_chip_at_most": rate / where.chips,
        "hours_per_epoch_at_least": steps * least["seconds"] / 3600,
        "hours_at_least": config.epochs * steps * least["seconds"] / 3600,
        "host_images_per_second": host_rate,
        "host_cores": math.ceil(host_rate / CORE_RATE),
    }


def with_share(config: Config, where: aot.Topology, share: int) -> Config:
    """Returns the checked config with `share` images on each device of `where`, and without accumulation."""
    size = share * len(where.devices)
    return dataclasses.replace(config, batch_size=size, accumulate=1).check()


def largest(config: Config, where: aot.Topology, known: Facts) -> dict[str, Any]:
    """Searches the largest batch that fits, with few compilations at QUICK effort.

    Peak memory is nearly linear in the batch size. Two small batches give the line. The search tries the batch at which the line reaches
    the device's memory, then its neighbors, until one fits and the next larger one does not. The number of images per device is a multiple
    of the batch-norm group if the group has at most 64 images, else of 8.

    Args:
      config: a checked Config.
      where: the TPU slice.
      known: facts about the dataset.
    Returns:
      {"images_per_device", "batch_size", "peak" (bytes per device), "compilations"}. 0 images if even the smallest batch does not fit.
    """
    group = config.batch_norm_group
    unit = group if group and group <= 64 else 8
    tried: dict[int, Any] = {}

    def peak(share: int) -> int | None:
        """Returns the peak memory with `share` images per device, in bytes. None if it does not fit."""
        if share not in tried:
            made = abstract_programs(with_share(config, where, share), where, known)
            found = aot.compiled(f"{where.name}: {share} images per device", *made.train, where, QUICK, made.parameters)
            tried[share] = found.get("peak")
        return tried[share]

    if peak(unit) is None:
        return {"images_per_device": 0, "batch_size": 0, "peak": None, "compilations": len(tried)}
    room = where.chip.hbm * memory.GIB * where.chips / len(where.devices)
    best = unit
    if peak(2 * unit) is not None:
        slope = max(1, (tried[2 * unit] - tried[unit]) / unit)
        best = max(2 * unit, int((room - tried[unit]) / slope + unit) // unit * unit)
        while peak(best) is None:
            best -= unit
        while peak(best + unit) is not None:
            best += unit
    return {"images_per_device": best, "batch_size": best * len(where.devices), "peak": tried[best], "compilations": len(tried)}


def levers(config: Config, where: aot.Topology, known: Facts) -> list[dict[str, Any]]:
    """Tries settings that may make a configuration fit, one after another at QUICK effort, until one fits.

    Args:
      config: a checked Config that does not fit.
      where: the TPU slice.
      known: facts about the dataset.
    Returns:
      [{"lever": the flags, "fits", "peak": bytes per device or None}], in the order of the trials.
    """
    share, group, found = config.batch_size // len(where.devices), config.batch_norm_group, []
    pieces = [n for n in (2, 4, 8, 16) if share % n == 0 and group and (share // n) % group == 0]
    candidates: list[tuple[str, dict[str, Any]]] = [(f"--config.accumulate={n}", {"accumulate": n}) for n in pieces]
    if group and not pieces and share % 2 == 0:
        half = share // 2
        candidates.append((f"--config.batch_norm_group={half} --config.accumulate=2", {"batch_norm_group": half, "accumulate": 2}))
    if len(where.devices) > 1:
        candidates.append((f"--config.mesh=shard={len(where.devices)}", {"mesh": f"shard={len(where.devices)}"}))
    for told, changes in candidates:
        changed = dataclasses.replace(config, **changes).check()
        made = abstract_programs(changed, where, known)
        one = aot.compiled(f"{where.name}: {told}", *made.train, where, QUICK, made.parameters, changed.accumulate)
        found.append({"lever": told, "fits": one["fits"], "peak": one.get("peak")})
        if one["fits"]:
            break
    return found


def plan(config: Config, topology: Sequence[str], fit: bool = False, quick: bool = False) -> dict[str, Any]:
    """Compiles the training step and the evaluation step of a configuration for TPU slices, and prints a table on standard error.

    Args:
      config: a checked Config.
      topology: names of slices, such as "v5e:4x4".
      fit: also find the largest batch that fits. If the run does not fit, also find settings with which it fits.
      quick: compile with less effort: about one minute instead of seven. Compare bytes and times only at equal effort.
    Returns:
      {"topologies": {name: see verdict}}, and "exit_code": DOES_NOT_FIT if one slice or more cannot hold the run. Times are lower bounds,
      rates are upper bounds.
    Raises:
      UserError: an unknown topology, libtpu is missing, a batch that does not divide over the devices, an unknown dataset or teacher.
    """
    places = [aot.topology(name) for name in topology]
    known, found = facts(config.data), {}
    for where in places:
        found[where.name] = verdict(config, where, known, QUICK if quick else USERS)
        if fit:
            found[where.name]["largest"] = largest(config, where, known)
            if not found[where.name]["fits"]:
                found[where.name]["levers"] = levers(config, where, known)
    print(tables.text(rows(found, {where.name: where for where in places})), file=sys.stderr)
    for name, one in found.items():
        for part in ("train", "evaluate"):
            if not one[part]["fits"]:
                print(f"{name}, {part}: {one[part]['told']}", file=sys.stderr)
    fits = all(one["fits"] for one in found.values())
    return {"topologies": found, **({} if fits else {"exit_code": DOES_NOT_FIT})}


def rows(found: Mapping[str, Any], places: Mapping[str, aot.Topology]) -> list[list[str]]:
    """Returns the table of plan's result, one column per topology, without empty rows.

    Args:
      found: {name of the topology: see verdict}.
      places: {name of the topology: Topology}.
    """

    def row(title: str, value: Callable[[Any, aot.Topology], Any], shown: Callable[[Any], str] = str) -> list[str]:
        cells = []
        for name, one in found.items():
            try:
                cells.append(shown(value(one, places[name])))
            except (KeyError, TypeError):  # a run that does not fit has no figures
                cells.append("-")
        return [title, *cells]

    gib = lambda size: f"{size / memory.GIB:.2f}"  # noqa: E731
    few = lambda number: f"{number:.3g}"  # noqa: E731
    lines = [
        ["", *found],
        row("verdict", lambda one, _: "fits" if one["fits"] else "does not fit"),
        row("chips, hosts", lambda one, _: f"{one['chips']}, {one['hosts']}"),
        row("batch, images per device", lambda one, at: f"{one['batch_size']}, {one['batch_size'] // len(at.devices)}"),
        row("HBM per device, GiB", lambda _, at: at.chip.hbm * at.chips / len(at.devices), lambda size: f"{size:g}"),
        row("train: arguments, GiB", lambda one, _: one["train"]["arguments"], gib),
        row("    temporaries, GiB", lambda one, _: one["train"]["temporaries"], gib),
        row("    peak, GiB", lambda one, _: one["train"]["peak"], gib),
        row("evaluate: peak, GiB", lambda one, _: one["evaluate"]["peak"], gib),
        row("GFLOP per image", lambda one, _: one["gigaflops_per_image"], few),
        row("MB accessed per image", lambda one, _: one["megabytes_per_image"], few),
        row("    of these in HBM", lambda one, _: one["hbm_megabytes_per_image"], few),
        row("peaks per chip, bfloat16 TFLOP/s, GB/s", lambda _, at: f"{at.chip.teraflops:g}, {at.chip.bandwidth:g}"),
        row("    as published at", lambda _, at: at.chip.source),
        row("step time at least, ms: arithmetic", lambda one, _: 1e3 * one["bounds"]["flops_seconds"], few),
        row("    memory bandwidth", lambda one, _: 1e3 * one["bounds"]["bytes_seconds"], few),
        row("    the limit is", lambda one, _: one["bounds"]["limit"]),
        row("images/s at most: per chip", lambda one, _: one["images_per_second_per_chip_at_most"], few),
        row("    whole slice", lambda one, _: one["images_per_second_at_most"], few),
        row("hours at least: one epoch", lambda one, _: one["hours_per_epoch_at_least"], few),
        row("    whole run", lambda one, _: one["hours_at_least"], few),
        row("collectives", lambda one, _: sum(kind["count"] for kind in one["train"]["collectives"].values())),
        row("    MB", lambda one, _: sum(kind["bytes"] for kind in one["train"]["collectives"].values()) / 1e6, few),
        row("    all-reduces that carry the gradients", lambda one, _: one["train"]["gradient_all_reduces"]),
        row("images/s that each host must deliver", lambda one, _: one["host_images_per_second"], few),
        row("    cores needed per host", lambda one, _: one["host_cores"]),
        row("largest batch, images per device", lambda one, _: one["largest"]["images_per_device"]),
        row(
            "what makes it fit",
            lambda one, _: next((lever["lever"] for lever in one["levers"] if lever["fits"]), "none of the settings tried"),
        ),
        row("time to compile, s", lambda one, _: one["train"]["compile_seconds"] + one["evaluate"]["compile_seconds"], few),
    ]
    return [line for line in lines if set(line[1:]) != {"-"}]
