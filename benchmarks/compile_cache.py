"""Compares the first start of a command, which compiles, with the second, which finds the compiled programs on disk.

    python benchmarks/compile_cache.py         # about ten minutes on two cores; run it on a quiet machine

Each start is a process of its own, timed from its begin to its end, with Python's imports. BNext-T at 224 pixels trains on enlarged digits:
two steps of eight images, then an evaluation of eight images and a checkpoint. "resume" starts again from that checkpoint, for two more
steps: a preempted run on a new machine, and one that finds its programs.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import numpy as np
from flax import nnx
from PIL import Image

from benchmarks import record
from bnext_jax.config import DataConfig
from bnext_jax.data.prepare import prepare
from bnext_jax.io.save import save
from bnext_jax.models.table import create_model

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = "--config=configs/digits_student.py:smoke"
TINY = (
    SMOKE, "--config.model.name=bnext_tiny", "--config.model.widths=()", "--config.model.stem_stride=2", "--config.batch_size=8",
    "--config.data.train_transform=resize(224)", "--config.data.eval_transform=resize(224)", "--config.data.eval_split=test[:8]",
    "--config.eval_batch_size=8",
)  # fmt: skip


def start(kept, *words):
    """Runs `main.py WORDS` with its compiled programs in the folder `kept`; returns its seconds."""
    environment = {**os.environ, "BNEXT_CACHE": str(kept)}
    began = time.perf_counter()
    subprocess.run([sys.executable, "main.py", *map(str, words)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return round(time.perf_counter() - began, 1)


def twice(kept, words, again=None):
    """Measures a command with an empty folder `kept`, and once more.

    Args:
      kept: a folder that does not exist.
      words: the command.
      again: the command of the second start; None = the same.
    Returns:
      {"first_seconds", "second_seconds", "kept_mib": size of what is kept}.
    """
    first, second = start(kept, *words), start(kept, *(again or words))
    size = sum(path.stat().st_size for path in (kept / "compiled").iterdir())
    return {"first_seconds": first, "second_seconds": second, "kept_mib": round(size / 2**20, 1)}


def train(folder, name, data, words, steps):
    """Measures a new run of `steps` steps twice, in two work directories; then a resumption without and with kept programs."""
    common = ("train", *words, f"--config.data.directory={data}", f"--workdir={folder / name}")
    short, long = f"--config.stop_at_step={steps}", f"--config.stop_at_step={2 * steps}"
    new = twice(folder / f"kept_{name}", (*common, short), (*common[:-1], f"--workdir={folder / name}_again", short))
    resumed = {
        "first_seconds": start(folder / f"empty_{name}", *common, long),
        "second_seconds": start(folder / f"kept_{name}", *common[:-1], f"--workdir={folder / name}_again", long),
    }
    return {"train": new, "resume": resumed}


def main():
    """Measures all commands and writes results/compile_cache.json."""
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        data = folder / "data"
        prepare(DataConfig(directory=str(data)))
        save(folder / "tiny", create_model("bnext_tiny", rngs=nnx.Rngs(0)))
        pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photo.jpg")
        start(folder / "before", "predict", f"--checkpoint={folder / 'tiny'}", folder / "photo.jpg")  # Numba's loops, files into memory
        predict = twice(folder / "kept_predict", ("predict", f"--checkpoint={folder / 'tiny'}", folder / "photo.jpg"))
        smoke = train(folder, "smoke", data, (SMOKE,), 15)
        evaluate = twice(folder / "kept_evaluate", ("evaluate", f"--checkpoint={folder / 'smoke'}"))
        tiny = train(folder, "tiny_run", data, TINY, 2)
    record.write("compile_cache", {"predict_bnext_tiny": predict, "evaluate_smoke": evaluate, "smoke": smoke, "bnext_tiny": tiny})


if __name__ == "__main__":
    main()
