"""The command `bench`: how fast a network runs on this machine, packed and in floats, side by side."""

import contextlib
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.host.process import processors
from bnext_jax.io.buckets import local_copy
from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.load import load
from bnext_jax.io.paths import to_path
from bnext_jax.models.table import create_model
from bnext_jax.packed import file
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
    weights: str | None = None,
) -> dict[str, Any]:
    """Measures a network, and prints the table on standard error.

    Args:
      checkpoint: a packed file, a work directory or a PyTorch file with exactly binary weights.
      model: name of a model, with random weights, instead of a checkpoint.
      resolution: height and width of an image, in pixels. None = the network's own, or 224.
      batch: numbers of images in one call.
      threads: processors and threads to use. None = one, then all. Each number has a process of its own.
      rounds: measurements of each contender.
      weights: which weights to take if a PyTorch file holds several, see io.load.load.
    Returns:
      {"model", "pixels", "threads": {"1": {batch: {contender: {"median", "best"}}}, ...}, "missing": reasons}, milliseconds an image.
    Raises:
      UserError: not one of checkpoint and model, numbers below 1, or the network cannot be packed.
    """
    if (checkpoint is None) == (model is None):
        raise UserError("bench needs --checkpoint=PATH or --model=NAME")
    if weights is not None and checkpoint is None:
        raise UserError("--weights chooses in a PyTorch file; leave it out, or give --checkpoint=PATH")
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("bench gives each program the same processors, and this system does not allow that; run it on Linux")
    available = processors()
    for name, least in (("resolution", resolution), ("threads", threads), ("rounds", rounds), ("batch", min(batch, default=0))):
        if least is not None and least < 1:
            raise UserError(f"--{name} is {least}; it must be 1 or more")
    if threads is not None and threads > available:
        raise UserError(f"--threads is {threads}, but this process may use {available} processors")
    with tempfile.TemporaryDirectory() as folder, _packed(checkpoint, model, weights, pathlib.Path(folder)) as (path, name, own):
        side = resolution or own or SIDE
        found: dict[str, Any] = {"model": name, "pixels": side, "threads": {}}
        for count in [threads] if threads else sorted({1, available}):
            log.info("measuring %s with %d of %d processors", name, count, available)
            words = [str(path), str(side), ",".join(map(str, batch)), str(count), str(rounds)]
            done = json.loads(pinned([sys.executable, "-m", "bnext_jax.bench.child", *words], count).splitlines()[-1])
            found["threads"][str(count)] = done["milliseconds"]
            found["missing"] = done["missing"]
    return found


@contextlib.contextmanager
def _packed(
    checkpoint: str | None, model: str | None, weights: str | None, folder: pathlib.Path
) -> Iterator[tuple[pathlib.Path, str, int | None]]:
    """Yields (packed file, name of the network, its own image side or None)."""
    with contextlib.ExitStack() as stack:
        if checkpoint and file.is_packed(checkpoint) and weights is None:
            path = stack.enter_context(local_copy(to_path(checkpoint)))
            described = file.read_description(path)
        else:
            if checkpoint:
                net, described = load(checkpoint, weights=weights)
            else:
                assert model is not None
                net = create_model(model, rngs=nnx.Rngs(0))
                if hasattr(net, "temperature"):
                    net.temperature[...] = jnp.zeros(())
                described = without_run(net, {"name": model, "num_classes": 1000, "arguments": {}})
            path = folder / "bench.bnext"
            file.write(path, *pack(net, described))
        shape = (described["preprocessing"] or {}).get("image_shape")
        yield path, described["model"]["name"], shape and int(shape[0])


def pinned(command: Sequence[str], count: int) -> str:
    """Runs a command on `count` processors of those that this process may use, and returns its standard output.

    Raises:
      UserError: the command ends with another code than 0.
    """
    root = str(pathlib.Path(__file__).parents[2])  # where `python main.py` of a clone finds the package
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    chosen = sorted(os.sched_getaffinity(0))[-count:]
    # The processors are chosen before the program begins: a thread that JAX has made keeps the processors that it got.
    prefix = [sys.executable, "-c", f"import os, sys; os.sched_setaffinity(0, {chosen}); os.execv(sys.argv[1], sys.argv[1:])"]
    done = subprocess.run([*prefix, *command], stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise UserError(f"the measurement on {count} processors ended with code {done.returncode}; its message stands above")
    return done.stdout
