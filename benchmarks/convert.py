"""Measures `convert` on a training checkpoint of BNext-L, and the teachers' forward pass at 224 pixels.

    python benchmarks/convert.py

The script makes the checkpoint: random weights, AdamW's two moments of each weight, and "module." before every name. Each conversion
runs the command in its own process. Memory is the peak resident set of that process; it includes mapped pages of the file.
Forward pass: batch 8, float32, all cores, jitted, the best of a few repetitions.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from bnext_jax.host.process import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()  # as main.py does

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import record
from benchmarks.steps import best_seconds
from benchmarks.train_step import BATCH, PIXELS
from bnext_jax.distill import roster
from bnext_jax.io.names.rules import LAYOUTS, entries
from bnext_jax.models.table import abstract_model, create_model
from bnext_jax.nn.network import split

MODEL = "bnext_large"
ROOT = pathlib.Path(__file__).parent.parent


def make_checkpoint(path):
    """Writes a training checkpoint with the names and shapes of MODEL, and optimizer state for every parameter."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors, moments = {}, {}
    for number, entry in enumerate(entries(abstract_model(MODEL))):
        to_torch, _ = LAYOUTS[entry.layout]
        shape = to_torch(np.broadcast_to(np.float32(0), entry.variable.shape)).shape
        if entry.layout == "temperature":
            tensors[f"module.{entry.name}"] = torch.full(shape, 0.9**10)
        elif entry.layout == "count":
            tensors[f"module.{entry.name}"] = torch.tensor(1000)
        else:
            tensors[f"module.{entry.name}"] = torch.rand(shape, generator=generator)
            if isinstance(entry.variable, nnx.Param):
                moments[number] = {"step": torch.tensor(1.0), "exp_avg": torch.rand(shape), "exp_avg_sq": torch.rand(shape)}
    torch.save({"epoch": 10, "state_dict": tensors, "optimizer": {"state": moments, "param_groups": []}, "temp": 0.9**10}, path)


def convert(source, output):
    """Runs `main.py convert` in a process; returns {"seconds", "peak_memory_gib"}."""
    command = [sys.executable, "main.py", "convert", f"--source={source}", f"--output={output}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    assert status == 0, status
    return {"seconds": round(seconds, 1), "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2)}


def conversions():
    """Measures both directions; "file_gb" is the size of the checkpoint in GB (1e9 bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        source, flax = f"{folder}/{MODEL}.pth.tar", f"{folder}/flax"
        make_checkpoint(source)
        return {
            "model": MODEL,
            "file_gb": round(pathlib.Path(source).stat().st_size / 1e9, 2),
            "pth_tar_to_flax": convert(source, flax),
            "flax_to_pth_tar": convert(flax, f"{folder}/back.pth.tar"),
            "flax_to_safetensors": convert(flax, f"{folder}/back.safetensors"),
        }


def forward(name):
    """Measures the forward pass of one teacher: {"compile_seconds", "seconds", "images_per_second"}."""
    network, params, batch_stats = split(create_model(name, rngs=nnx.Rngs(0)), training=False)
    variables = {**params, **batch_stats}
    images = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH, PIXELS, PIXELS, 3)), jnp.float32)
    start = time.perf_counter()
    compiled = jax.jit(lambda variables, images: network(variables, images)[0]).lower(variables, images).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(variables, images))
    seconds = best_seconds(lambda: compiled(variables, images))
    return {"compile_seconds": round(compile_seconds, 1), "seconds": round(seconds, 3), "images_per_second": round(BATCH / seconds, 1)}


if __name__ == "__main__":
    measured = conversions()
    record.write("convert", {"conversion": measured, "teachers_forward": {t.model: forward(t.model) for t in roster.ROSTER.values()}})
