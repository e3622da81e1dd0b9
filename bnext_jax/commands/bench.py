"""The command `bench`: how fast a network runs on this machine, packed and in floats, side by side."""

import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.analysis import tables
from bnext_jax.bench import contenders, measure
from bnext_jax.errors import UserError
from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.load import load
from bnext_jax.models.table import create_model
from bnext_jax.packed import file, network
from bnext_jax.packed.pack import pack

log = logging.getLogger(__name__)
SIDE = 224  # pixels


def bench(
    checkpoint: str | None = None,
    model: str | None = None,
    resolution: int | None = None,
    batch: Sequence[int] = (1, 8),
    threads: int | None = None,
    rounds: int = 7,
) -> dict[str, Any]:
    """Measures a network, and prints the table on standard error.

    Args:
      checkpoint: a packed file, a work directory or a PyTorch file with exactly binary weights.
      model: name of a model, with random weights, instead of a checkpoint.
      resolution: height and width of an image, in pixels. None = the network's own, or 224.
      batch: numbers of images in one call.
      threads: processors and threads to use. None = one, then all, each in a process of its own.
      rounds: measurements of each contender.
    Returns:
      {"model", "pixels", "threads": {"1": {batch: {contender: {"median", "best"}}}, ...}, "missing": reasons}, milliseconds an image.
    Raises:
      UserError: not one of checkpoint and model, numbers below 1, or the network cannot be packed.
    """
    if (checkpoint is None) == (model is None):
        raise UserError("bench needs --checkpoint=PATH or --model=NAME")
    available = len(os.sched_getaffinity(0))
    for name, least in (("resolution", resolution), ("threads", threads), ("rounds", rounds), ("batch", min(batch, default=0))):
        if least is not None and least < 1:
            raise UserError(f"--{name} is {least}; it must be 1 or more")
    if threads is not None and threads > available:
        raise UserError(f"--threads is {threads}, but this process may use {available} processors")
    with tempfile.TemporaryDirectory() as folder:
        path, name, own = _packed(checkpoint, model, pathlib.Path(folder))
        side = resolution or own or SIDE
        if threads is None:
            found: dict[str, Any] = {"model": name, "pixels": side, "threads": {}}
            for count in sorted({1, available}):
                done = _in_process(path, side, batch, count, rounds)
                found["threads"] |= done["threads"]
                found["missing"] = done["missing"]
            return found
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(allowed)[-threads:])
        try:
            programs, missing = contenders.all_of(path, threads, side, pathlib.Path(folder))
            values = {}
            for count in batch:
                images = np.random.default_rng(0).standard_normal((count, side, side, 3), np.float32)
                values[str(count)] = measure.alternate(programs, images, rounds)
        finally:
            os.sched_setaffinity(0, allowed)
    print(f"{name}, {side} x {side} pixels, {threads} of {available} processors", file=sys.stderr)
    print(tables.text(measure.rows(values, contenders.FLOAT)), file=sys.stderr)
    for why in missing:
        print(f"not measured: {why}", file=sys.stderr)
    return {"model": name, "pixels": side, "threads": {str(threads): values}, "missing": missing}


def _packed(checkpoint: str | None, model: str | None, folder: pathlib.Path) -> tuple[pathlib.Path, str, int | None]:
    """Returns (packed file, name of the network, its own image side or None)."""
    if checkpoint and file.is_packed(checkpoint):
        described = network.load(checkpoint, network.FLOAT)[1]
        path = pathlib.Path(checkpoint)
    else:
        if checkpoint:
            net, described = load(checkpoint)
        else:
            assert model is not None
            net = create_model(model, rngs=nnx.Rngs(0))
            if hasattr(net, "temperature"):
                net.temperature[...] = jnp.zeros(())
            described = without_run(net, {"name": model, "num_classes": 1000, "arguments": {}})
        path = folder / "bench.bnext"
        file.write(path, *pack(net, described))
    shape = (described["preprocessing"] or {}).get("image_shape")
    return path, described["model"]["name"], shape and int(shape[0])


def _in_process(path: pathlib.Path, side: int, batch: Sequence[int], threads: int, rounds: int) -> dict[str, Any]:
    """Runs the measurement in a process of its own, because JAX chooses its threads only once. Returns the process's result."""
    words = ["bench", f"--checkpoint={path}", f"--resolution={side}", f"--batch={','.join(map(str, batch))}", f"--threads={threads}"]
    command = [sys.executable, "-m", "bnext_jax", *words, f"--rounds={rounds}"]
    root = str(pathlib.Path(__file__).parents[2])  # where `python main.py` of a clone finds the package
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise UserError(f"the measurement with {threads} processors ended with code {done.returncode}; its message stands above")
    return json.loads(done.stdout.splitlines()[-1])
