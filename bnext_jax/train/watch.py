"""What is watched while training: sums over an epoch, the state of the binary weights, the files that record it."""

import contextlib
import functools
import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp

from bnext_jax.binary import binarize_weight
from bnext_jax.errors import UserError, one_line

METRICS_FILE = "metrics.jsonl"


class Meter:
    """Sums the step's metrics, reading each one step late so that the host never waits for the step it just started."""

    def __init__(self):
        self._unread = None
        self.reset()

    def reset(self):
        """Starts a new sum."""
        self.loss = self.correct = self.steps = 0
        self.last = {}

    def add(self, step, metrics):
        """Takes the metrics of one step (device scalars) and reads those of the step before.

        Raises UserError naming the step if a loss or gradient read here is not finite.
        """
        self.read()
        self._unread = step, metrics

    def read(self):
        """Reads what is still unread. Raises UserError like add()."""
        if self._unread is None:
            return
        (step, metrics), self._unread = self._unread, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            raise UserError(
                f"the loss or its gradient is not finite at step {step} (loss {values['loss']}, gradient norm {values['grad_norm']});"
                " the last good checkpoint is kept: lower config.optimizer.learning_rate or look at the data, in a new --workdir"
            )
        self.loss += values["loss"]
        self.correct += values["correct"]
        self.steps += 1
        self.last = values


@jax.jit
def _signs(latent):
    return {path: jnp.sign(w).astype(jnp.int8) for path, w in latent.items()}


@functools.partial(jax.jit, static_argnums=3)
def _count(latent, signs_before, temperature, sign_below):
    ones = [jnp.sum(jnp.abs(binarize_weight(w, temperature, sign_below)) == 1) for w in latent.values()]
    flips = [jnp.sum(jnp.sign(w).astype(jnp.int8) != signs_before[path]) for path, w in latent.items()]
    return sum(ones), sum(flips)


class BinaryWatch:
    """Share of binary weights at +-1, and flip ratio: the share whose sign changed since the last look.

    latent: {path: sign_below} (Network.latent). params: {path: array}, the state at the first look.
    """

    def __init__(self, latent, params):
        self._paths, self._sign_below = tuple(latent), next(iter(latent.values()), 0.0)
        self._before = _signs(self._chosen(params))

    def _chosen(self, params):
        return {path: params[path] for path in self._paths}

    def look(self, params, temperature):
        """{"binary_share", "flip_ratio"}, both in [0, 1]; {} for a network without binary weights."""
        if not self._paths:
            return {}
        latent = self._chosen(params)
        total = sum(w.size for w in latent.values())
        ones, flips = _count(latent, self._before, jnp.float32(temperature), self._sign_below)
        self._before = _signs(latent)
        return {"binary_share": int(ones) / total, "flip_ratio": int(flips) / total}


def is_binary(latent, params, temperature):
    """Whether every binary weight is exactly +-1 at this temperature; False for a network that has none. Arguments as above."""
    return BinaryWatch(latent, params).look(params, temperature).get("binary_share") == 1.0


class Writer:
    """One JSON line a log in the work directory, and TensorBoard files beside it.

    Args:
      workdir: the run's folder. step: lines beyond it belong to steps that will be done again, and are cut.
      tensorboard: whether to write TensorBoard files (importing their writer takes seconds).
    """

    def __init__(self, workdir, step, tensorboard):
        self._path = pathlib.Path(workdir) / METRICS_FILE
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        partial = self._path.with_suffix(".tmp")
        self._tensorboard = None
        with self._writing():
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(partial, self._path)
            if tensorboard:
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
                from clu import metric_writers

                self._tensorboard = metric_writers.SummaryWriter(str(workdir))

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:  # TensorFlow tells a full disk in kinds of its own
            raise UserError(
                f"{self._path.parent} takes no more logs ({one_line(error)}); free space or choose another --workdir"
            ) from error

    def write(self, step, values):
        """Records numbers under a step. Raises UserError where they cannot be written."""
        line = json.dumps({"step": step, **values}) + "\n"
        with self._writing():
            with self._path.open("a") as file:
                file.write(line)
            if self._tensorboard is not None:
                self._tensorboard.write_scalars(step, values)
                self._tensorboard.flush()

    def close(self):
        """Closes the TensorBoard files."""
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(workdir):
    """The JSON lines of a work directory as a list of dicts, oldest first; [] where there are none. A torn last line is left out."""
    path = pathlib.Path(workdir) / METRICS_FILE
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
