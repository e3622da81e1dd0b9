"""Measures every binary network of the table at 64 pixels, beside BNext-T: seconds to compile a training step, and seconds of a step.

    python benchmarks/zoo.py                    # all; about 15 minutes on two cores
    python benchmarks/zoo.py reactnet_a bnn18   # only these, beside BNext-T

float32, batch 8, 1,000 classes, labels alone, all cores. A step's time is the median of turns in which all networks run one after the
other, so that a busy moment of the machine hits all alike. Compilation is measured once, without the store of compiled programs.
`lines` counts the lines of the network's own module in bnext_jax/models.
"""

import inspect
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from bnext_jax.host.process import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()  # as main.py does

import jax

from benchmarks import record, steps
from bnext_jax.models.table import MODELS
from bnext_jax.training import mesh

BATCH, PIXELS, TURNS = 8, 64, 7
BESIDE = "bnext_tiny"
NETWORKS = {
    "bnn18": {},
    "xnornet18": {},
    "birealnet18": {},
    "real_to_binary": {},
    "strong_baseline": {"resolution": PIXELS},
    "reactnet18": {},
    "reactnet_a": {},
    "meliusnet22": {},
    "meliusnet29": {},
    "pokebnn": {},
    BESIDE: {},
}


def main(chosen):
    """Measures the chosen networks, or all, and writes results/zoo.json."""
    shardings, ready, found = mesh.make_shardings(), {}, {}
    for name in chosen or NETWORKS:
        step, arguments, _ = steps.built(shardings, name, BATCH, PIXELS, **NETWORKS[name])
        start = time.perf_counter()
        compiled = step.lower(*arguments).compile()
        module = sys.modules[MODELS[name].network.__module__]
        found[name] = {
            "compile_seconds": round(time.perf_counter() - start, 1),
            "lines": len(inspect.getsource(module).splitlines()),
            "module": module.__name__,
        }
        print(name, found[name], file=sys.stderr)
        ready[name] = steps.Stepping(compiled, arguments)
        jax.block_until_ready(ready[name]())
    times = {name: [] for name in ready}
    for _ in range(TURNS):
        for name, one in ready.items():
            start = time.perf_counter()
            jax.block_until_ready(one())
            times[name].append(time.perf_counter() - start)
    for name, turns in times.items():
        found[name]["step_seconds"] = round(statistics.median(turns), 3)
    record.write("zoo", {"settings": {"batch": BATCH, "pixels": PIXELS, "precision": "float32", "turns": TURNS}, "networks": found})


if __name__ == "__main__":
    names = [*sys.argv[1:], *([BESIDE] if sys.argv[1:] and BESIDE not in sys.argv[1:] else [])]
    wrong = [name for name in names if name not in NETWORKS]
    if wrong:
        sys.exit(f"unknown networks: {', '.join(wrong)}; one of: {', '.join(NETWORKS)}")
    main(names)
