"""Compares distillation with training on labels alone: the quick start's student, three seeds each.

    python benchmarks/quickstart.py         # about a quarter of an hour on two cores

Each run starts in a new folder. Top-1 is measured on the 360 test images, so one image is 0.28 points.
"""

import dataclasses
import logging
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from bnext_jax.host.process import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()

from benchmarks import record
from bnext_jax.commands.quickstart import quickstart
from bnext_jax.training.loop import train
from configs import digits_student

SEEDS = (0, 1, 2)


def summary(values):
    """Summarizes one figure over the seeds: {"mean", "standard_deviation", "values"}."""
    return {
        "mean": round(statistics.mean(values), 2),
        "standard_deviation": round(statistics.stdev(values), 2),
        "values": [round(v, 2) for v in values],
    }


def main():
    """Trains all students and writes results/quickstart.json."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("bnext_jax").setLevel(logging.INFO)
    distilled, labels = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            distilled.append(quickstart(f"{folder}/distilled{seed}", seed))
            config = dataclasses.replace(digits_student.get_config("labels"), seed=seed).check()
            labels.append(train(config, f"{folder}/labels{seed}"))
    record.write(
        "quickstart",
        {
            "student_distilled_top1": summary([r["student"] for r in distilled]),
            "student_labels_alone_top1": summary([r["top1"] for r in labels]),
            "assistant_top1": summary([r["teachers"]["assistant"] for r in distilled]),
            "main_top1": summary([r["teachers"]["main"] for r in distilled]),
            "binary": all(r["binary"] for r in (*distilled, *labels)),
            "bytes": distilled[0]["bytes"],
            "binary_weights": distilled[0]["binary_weights"],
            "training_seconds_of_all_three": summary([r["train_seconds"] for r in distilled]),
        },
    )


if __name__ == "__main__":
    main()
