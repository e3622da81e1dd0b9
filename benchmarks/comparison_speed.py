"""The speeds of benchmarks/comparison.py: a training step, and one image in the packed network, for each network of the table in turn."""

import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks import steps
from benchmarks.comparison_runs import BATCH, CLASSES, ENTRIES, PIXELS
from bnext_jax.host.progress import Progress
from bnext_jax.io.load import load as load_any
from bnext_jax.packed import file, network
from bnext_jax.packed.pack import pack
from bnext_jax.training import mesh

TURNS = 9
GROUPS = ("BNext", "ablation", "ancestor", "real-valued")  # the others have one of these networks
SAME = ("window_1", "window_3", "hard")  # ablations of the training alone


def measured(plan):
    """Measures all networks: {"settings", "networks": {key: {"step_seconds", "bytes_packed", "milliseconds": {form: ms}}}}.

    A step has 64 images and all cores. A packed network computes one image; "engine" is the engine in C, which knows BNext alone, "xla" the
    form in XLA. The networks of seed 0 must have been trained.
    """
    chosen = [key for key, entry in ENTRIES.items() if entry.group in GROUPS and key not in SAME]
    training, calls, found = {}, {}, {key: {} for key in chosen}
    with tempfile.TemporaryDirectory() as folder, Progress("compile", len(chosen), unit="network") as progress:
        for key in chosen:
            config = ENTRIES[key].steps(plan, 0)[-1]
            step, arguments, _ = steps.built(
                mesh.make_shardings(), config.model.name, BATCH, PIXELS, classes=CLASSES, **config.model.arguments()
            )
            training[key] = steps.Stepping(step.lower(*arguments).compile(), arguments)
            if ENTRIES[key].group != "real-valued":
                path = pathlib.Path(folder) / f"{key}.bnext"
                file.write(path, *pack(*load_any(plan.place(key))))
                found[key]["bytes_packed"] = path.stat().st_size
                calls |= {(key, form): _call(path, form) for form in _forms(path)}
            progress.step()
        image = jax.device_put(np.random.default_rng(0).standard_normal((1, PIXELS, PIXELS, 3), np.float32))
        times = _in_turn({**{(key, "step"): one for key, one in training.items()}, **{one: (calls[one], image) for one in calls}})
    for (key, form), seconds in times.items():
        if form == "step":
            found[key]["step_seconds"] = round(seconds, 4)
        else:
            found[key].setdefault("milliseconds", {})[form] = round(1e3 * seconds, 3)
    return {"settings": {"batch": BATCH, "pixels": PIXELS, "turns": TURNS, "precision": "float32", "cores": "all"}, "networks": found}


def _forms(path):
    return (network.ENGINE, network.XLA) if file.PROGRAM in file.read(path)[1] else (network.XLA,)


def _call(path, form):
    model, _ = network.load(path, form=form)
    return jax.jit(model)


def _in_turn(programs):
    """The median seconds of each program, from turns in which all run one after the other. The first turn compiles and does not count."""
    times = {name: [] for name in programs}
    with Progress("measure", (TURNS + 1) * len(programs), unit="run") as progress:
        for turn in range(TURNS + 1):
            for name, one in programs.items():
                call = (lambda function=one[0], given=one[1]: function(given)) if isinstance(one, tuple) else one
                jax.block_until_ready(call())  # fills the caches
                start = time.perf_counter()
                jax.block_until_ready(call())
                if turn:
                    times[name].append(time.perf_counter() - start)
                progress.step()
    return {name: statistics.median(taken) for name, taken in times.items()}
