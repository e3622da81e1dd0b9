"""Measures the cost of the teachers: BNext-T's training step with EfficientNet-B0 and -B2, in bfloat16 and float32, and without teachers.

    python benchmarks/distillation.py

224 pixels, batch 8, float32 student, all cores, everything in one run. A CPU without bfloat16 units emulates bfloat16; a TPU has such
units. FLOPs are XLA's count for the compiled program. They give the teachers' share of the work independently of the machine's speed.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from bnext_jax.host.process import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()  # as main.py does

from benchmarks import record, steps
from bnext_jax.training import mesh

BATCH, PIXELS = 8, 224
TEACHERS = ("efficientnet_b0", "efficientnet_b2")


def measure(shardings, teachers, dtype):
    """Measures a step with these teachers: {"step_seconds", "gflops_per_image"}."""
    step, arguments, _ = steps.built(shardings, "bnext_tiny", BATCH, PIXELS, teachers=teachers, teacher_dtype=dtype)
    compiled = step.lower(*arguments).compile()
    stepping = steps.Stepping(compiled, arguments)
    stepping()
    flops = compiled.cost_analysis()["flops"]
    return {"step_seconds": round(steps.best_seconds(stepping), 3), "gflops_per_image": round(flops / BATCH / 1e9, 2)}


def main():
    """Measures all three steps and writes results/distillation.json."""
    shardings = mesh.make_shardings()
    found = {"labels": measure(shardings, (), "float32")}
    for dtype in ("float32", "bfloat16"):
        found[dtype] = measure(shardings, TEACHERS, dtype)
        for figure in ("step_seconds", "gflops_per_image"):
            share = 1 - found["labels"][figure] / found[dtype][figure]
            found[dtype][f"teachers_share_of_{figure}"] = round(share, 3)
    record.write("distillation", {"settings": {"batch": BATCH, "pixels": PIXELS, "teachers": TEACHERS}, **found})


if __name__ == "__main__":
    main()
