"""Trains BNext, its ablations, its distillations and its ancestors on Fashion-MNIST, and compares them.

    bnext prepare --config=configs/fashion.py --manual_dir=DIR    # the dataset first; DIR: docs/own_images.md
    python benchmarks/comparison.py pilot              # chooses the epochs for a budget of hours
    python benchmarks/comparison.py run --minutes=50   # trains the next runs; call it again until it says that none is left
    python benchmarks/comparison.py speed              # seconds a step and milliseconds packed, all networks in turn, on a quiet machine
    python benchmarks/comparison.py table              # results/comparison.json and docs/measured.png
    python benchmarks/comparison.py latent             # the same of the latent weights' gradients and steps, from the runs' logs

Every finished run adds one line to results/comparison.jsonl. A run that is stopped in the middle goes on from its last checkpoint; its line
says "resumed", because its seconds are those of the last call alone. A teacher whose work directory is gone
is trained again; the line of a student has its teachers' accuracies.
First every run is trained with seed 0. A run within CLOSE points of the run that it is compared with, that run, and REPEATED get the seeds
1 and 2. Two calls may run side by side with other runs (--only); their seconds are longer then. How fast a network is, `speed` says.
The runs are in benchmarks/comparison_runs.py. A work directory that another version of a run began is refused: name another --folder.
"""

import argparse
import json
import logging
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from bnext_jax.host.process import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()  # as main.py does

import jax

from benchmarks import comparison_latent, comparison_speed, comparison_table, record, steps
from benchmarks.comparison_runs import BATCH, CLASSES, ENTRIES, PIXELS, Plan
from bnext_jax.analysis.count import measure
from bnext_jax.host import process
from bnext_jax.models.table import abstract_model
from bnext_jax.training import mesh
from bnext_jax.training.loop import train

CLOSE = 1.0  # points of top-1
REPEATED = ("hard", "forgetful")  # rows that get all seeds in any case, because sentences of docs/measured.md rest on them
SEEDS = (0, 1, 2)
LINES = record.RESULTS / "comparison.jsonl"
PLAN = record.RESULTS / "comparison_plan.json"
BUDGET = 3.75 * 3600  # seconds of all runs; of the five hours the rest is left for speed and mishaps
RUNS = 55  # about so many runs are expected
OVERHEAD = 30  # seconds of a run for compilation and evaluation
SHARE = 0.75  # of the bare step's speed that a run reaches, with reading of images, logs and checkpoints; seen in a first run


def pilot(options):
    """Measures the step of the narrow BNext and writes the plan: images and epochs of each run."""
    config = ENTRIES["bnext"].steps(Plan(10_000, 1, options.folder, options.data), 0)[0]
    step, arguments, _ = steps.built(mesh.make_shardings(), "bnext", BATCH, PIXELS, classes=CLASSES, **config.model.arguments())
    stepping = steps.Stepping(step.lower(*arguments).compile(), arguments)
    jax.block_until_ready(stepping())
    seconds = steps.best_seconds(stepping, 10)
    images_a_run = (BUDGET / RUNS - OVERHEAD) * SHARE * BATCH / seconds
    epochs = max(8, min(24, round(images_a_run / options.images)))
    found = {**record.origin(), "machine": record.machine(), "step_seconds": round(seconds, 4), "images": options.images, "epochs": epochs}
    PLAN.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def planned(options):
    """The plan that the pilot wrote."""
    if not PLAN.exists():
        sys.exit("there is no plan; run `python benchmarks/comparison.py pilot` first")
    found = json.loads(PLAN.read_text())
    return Plan(found["images"], found["epochs"], options.folder, options.data)


def lines():
    """All finished runs: {(key, seed): line}."""
    texts = LINES.read_text().splitlines() if LINES.exists() else []
    return {(line["run"], line["seed"]): line for line in map(json.loads, texts)}


def wanted(done):
    """The next runs as (key, seed), in order. `done`: see `lines`."""
    first = [(key, 0) for key in sorted(ENTRIES, key=lambda key: len(ENTRIES[key].needs))]
    if missing := [run for run in first if run not in done]:
        return missing
    close = {key for key, entry in ENTRIES.items() if entry.against and (key in REPEATED or abs(difference(done, key)) < CLOSE)}
    again = [key for key in ENTRIES if key in close or key in {ENTRIES[other].against for other in close}]
    return [(key, seed) for seed in SEEDS[1:] for key in again if (key, seed) not in done]


def difference(done, key):
    """Points of top-1 that a run with seed 0 has above the run that it is compared with."""
    return done[key, 0]["top1"] - done[ENTRIES[key].against, 0]["top1"]


def run(options):
    """Trains the next runs until the minutes are over. No run begins that would not end in time; teachers that are gone come on top."""
    plan, begun, teachers = planned(options), time.monotonic(), {}
    while True:
        done = lines()
        left = [one for one in wanted(done) if not options.only or one[0] in options.only]
        if not left:
            return print("no run is left")
        key, seed = left[0]
        if missing := [need for need in ENTRIES[key].needs if (need, 0) not in done]:
            sys.exit(f"{key} needs the teachers {', '.join(missing)}; train them first")
        whole = [line for line in done.values() if not line["resumed"]]
        durations = [line["seconds"] for line in whole if line["run"] == key] or [line["seconds"] for line in whole]
        expected = statistics.median(durations) if durations else BUDGET / RUNS
        if time.monotonic() - begun + expected > 60 * options.minutes:
            return print(f"{len(left)} runs are left, the next one ({key}, seed {seed}) takes about {expected:.0f} s")
        needs = ENTRIES[key].needs
        teachers |= {need: teacher(plan, need, done[need, 0]["top1"]) for need in needs if need not in teachers}
        note(one_run(plan, key, seed) | ({"teachers": {need: teachers[need] for need in needs}} if needs else {}))


def teacher(plan, key, top1):
    """The accuracy of a teacher in percent. Trains it if its work directory is gone: on another processor it becomes a slightly other one.

    Args:
      plan: a comparison_runs.Plan.
      key: the teacher.
      top1: the accuracy of its line, in percent.
    """
    found = one_run(plan, key, 0)["top1"]  # trains nothing when the work directory is whole
    if abs(found - top1) >= CLOSE:
        sys.exit(f"the teacher in {plan.place(key)} has {found} % top-1, its line in {LINES.name} says {top1} %: it is another teacher")
    return found


def one_run(plan, key, seed):
    """Trains one run, all its steps, and returns its line."""
    start, result, parts = time.monotonic(), {}, []
    made = ENTRIES[key].steps(plan, seed)
    places = [plan.place(key, seed, i if i < len(made) - 1 else None) for i in range(len(made))]
    resumed = any(pathlib.Path(place).exists() for place in places)
    for config, place in zip(made, places, strict=True):
        result = train(config.check(), place)
        if not result["finished"]:
            sys.exit(result["exit_code"])
        parts.append(round(result["train_seconds"], 1))
    return {
        "run": key, "seed": seed, "top1": round(result["top1"], 2), "loss": round(result["loss"], 4), "binary": result["binary"],
        "images": plan.images, "epochs": plan.epochs, "examples": result["examples"], "train_seconds": parts,
        "seconds": round(time.monotonic() - start, 1), "resumed": resumed,
        "commit": process.revision(), "machine": record.machine()["processor"],
    }  # fmt: skip


def note(line):
    """Adds a line to results/comparison.jsonl."""
    with LINES.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def counted(plan):
    """What each run's network costs: {key: {"parameters", "binary_macs", "ops", "bytes"}}. The bytes are those of the count."""
    found = {}
    for key, entry in ENTRIES.items():
        config = entry.steps(plan, 0)[-1]
        model = abstract_model(config.model.name, CLASSES, **config.model.arguments())
        told = measure(config.model.name, model, (PIXELS, PIXELS))
        found[key] = {"parameters": told["parameters"], "binary_macs": told["macs"]["binary"], "ops": told["ops"], "bytes": told["bytes"]}
    return found


def main(words):
    """Runs one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("pilot", "run", "speed", "table", "latent"))
    parser.add_argument("--minutes", type=float, default=50, help="of run: begin no run that would not end in so many minutes")
    parser.add_argument("--images", type=int, default=10_000, help="of pilot: training images of each run")
    parser.add_argument("--folder", default="runs/comparison", help="folder of the work directories")
    parser.add_argument("--data", default="", help="folder of the prepared dataset; empty = as config.data.directory")
    parser.add_argument("--only", nargs="*", default=(), choices=tuple(ENTRIES), help="of run: only these")
    options = parser.parse_args(words)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("bnext_jax").setLevel(logging.INFO)
    if options.command in ("pilot", "run"):
        return {"pilot": pilot, "run": run}[options.command](options)
    plan = planned(options)
    if options.command == "speed":
        return record.write("comparison_speed", comparison_speed.measured(plan))
    if options.command == "latent":
        return comparison_latent.write(plan, SEEDS)
    return comparison_table.write(plan, lines(), counted(plan))


if __name__ == "__main__":
    main(sys.argv[1:])
