"""What is watched while training: sums over an epoch, the state of the binary weights, the files that record it."""

import collections
import contextlib
import functools
import json
import logging
import math
import os
import time

import jax
import jax.numpy as jnp
from etils import epath

from bnext_jax.errors import UserError, one_line
from bnext_jax.io.files import write_whole
from bnext_jax.io.logs import METRICS_FILE, read_metrics
from bnext_jax.training import cluster

log = logging.getLogger(__name__)
PROFILED_STEPS = 5
ADVICE = "free space or choose another --workdir"


class NotFinite(UserError):
    """A loss or gradient is not finite. step: where. values: {name: number} of its metrics."""

    def __init__(self, step, values):
        self.step, self.values = step, values
        super().__init__(
            f"the loss or its gradient is not finite at step {step} (loss {values['loss']}, gradient norm {values['grad_norm']});"
            " the last good checkpoint is kept: lower config.optimizer.learning_rate or look at the data, in a new --workdir"
        )


class Meter:
    """Sums the step's metrics, reading each one step late so that the host never waits for the step it just started.

    Attributes:
      loss, steps, undecodable: sums since the last reset. last: the newest metrics that were read. stop: the flags' sum in them.
    """

    def __init__(self):
        self._unread, self.stop = None, 0
        self.reset()

    def reset(self):
        """Starts new sums."""
        self.loss = self.steps = self.undecodable = 0
        self._hits = collections.Counter()
        self.last = {}

    def add(self, step, metrics):
        """Takes the metrics of one step (device scalars) and reads those of the step before.

        Raises NotFinite if a loss or gradient read here is not finite.
        """
        self.read()
        self._unread = step, metrics

    def read(self):
        """Reads what is still unread. Raises like add()."""
        if self._unread is None:
            return
        (step, metrics), self._unread = self._unread, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.stop = max(self.stop, values["stop"])
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            raise NotFinite(step, values)
        self.loss += values["loss"]
        self.undecodable += int(values["undecodable"])
        self._hits.update({name: hits for name, hits in values.items() if name.split("/")[0] == "correct"})
        self.steps += 1
        self.last = values

    def top1(self):
        """{"top1", "top1/main", "top1/assistant"}: hits among the training images, of the student and its teachers."""
        return {name.replace("correct", "top1"): hits for name, hits in self._hits.items()}

    def norms(self):
        """The norms of the newest step, whole ("grad_norm") and by group ("update_norm/latent")."""
        return {name: value for name, value in self.last.items() if "_norm" in name}


@functools.partial(jax.jit, static_argnums=0)
def _signs(quantizers, latents):
    """[int8 signs] of each layer's latent weights. quantizers: a tuple of WeightQuantizers, one a layer."""
    return [quantizer.signs(latent).astype(jnp.int8) for quantizer, latent in zip(quantizers, latents, strict=True)]


@functools.partial(jax.jit, static_argnums=0)
def _count(quantizers, latents, before, temperature):
    """([[weights that are exactly binary, flipped, of sign +1]] of each layer, their signs now). before: the signs at the last look."""
    now = _signs(quantizers, latents)
    counted = [
        jnp.stack([jnp.sum(quantizer.binary(latent, temperature)), jnp.sum(signs != old), jnp.sum(signs > 0)])
        for quantizer, latent, signs, old in zip(quantizers, latents, now, before, strict=True)
    ]
    return counted, now


class BinaryWatch:
    """Share of weights that are exactly binary, and flip ratio: the share whose sign changed since the last look; the quantizers say both.

    latent: {path: WeightQuantizer} (Network.latent). params: {path: array}, the state at the first look.
    """

    def __init__(self, latent, params):
        self._paths, self._quantizers = tuple(latent), tuple(latent.values())
        self._before = _signs(self._quantizers, self._chosen(params))

    def _chosen(self, params):
        return [params[path] for path in self._paths]

    def look(self, params, temperature, layers=False):
        """{"binary_share", "flip_ratio"}, both in [0, 1]; {} for a network without binary weights.

        layers: also {"flip_ratio/LAYER", "plus_share/LAYER"}, the latter the share of weights whose sign is +1.
        """
        if not self._paths:
            return {}
        latents = self._chosen(params)
        counted, self._before = _count(self._quantizers, latents, self._before, jnp.float32(temperature))
        counted = [counts.astype(int) for counts in jax.device_get(counted)]
        total = sum(latent.size for latent in latents)
        binary, flips, _ = sum(counted)
        found = {"binary_share": int(binary) / total, "flip_ratio": int(flips) / total}
        for path, latent, (_, flipped, positive) in zip(self._paths, latents, counted, strict=True) if layers else ():
            name, size = path.removesuffix("/kernel"), latent.size
            found |= {f"flip_ratio/{name}": int(flipped) / size, f"plus_share/{name}": int(positive) / size}
        return found


def is_binary(latent, params, temperature):
    """Whether every binary weight is exactly +-1 at this temperature; False for a network that has none. Arguments as above."""
    return BinaryWatch(latent, params).look(params, temperature).get("binary_share") == 1.0


class Clock:
    """Where the time goes: measured parts, and the steps, which are the rest.

    total: seconds of steps and waits for data, of all that was read.
    """

    def __init__(self):
        self.total = 0.0
        self.reset()

    def reset(self):
        """Starts anew."""
        self._began, self._parts = time.perf_counter(), collections.Counter()

    @contextlib.contextmanager
    def measure(self, part):
        """Counts what happens inside as `part`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] += time.perf_counter() - began

    def read(self):
        """{"step_seconds", "data_wait_seconds", "checkpoint_seconds", "compile_seconds"} since the last reset."""
        parts = {part: self._parts[part] for part in ("data_wait", "checkpoint", "compile")}
        parts = {"step": time.perf_counter() - self._began - sum(parts.values()), **parts}
        self.total += parts["step"] + parts["data_wait"]
        return {f"{part}_seconds": seconds for part, seconds in parts.items()}

    def parts(self, name):
        """{"NAME_seconds"} of one part, {} where nothing was measured as it."""
        return {f"{name}_seconds": self._parts[name]} if name in self._parts else {}


class Profile:
    """XLA's profile of PROFILED_STEPS steps, for TensorBoard or Perfetto, in WORKDIR/profile. Use as a context manager.

    workdir: the run's folder. first: the first step of them; 0 = none.
    """

    def __init__(self, workdir, first):
        self._folder, self._first, self._runs = workdir / "profile", first, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end()

    def _end(self):
        if self._runs:
            jax.profiler.stop_trace()
            self._runs = False
            log.info("XLA's profile is in %s", self._folder)

    def look(self, step):
        """To be called before each step."""
        if self._first and step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._runs = True
        elif step == self._first + PROFILED_STEPS:
            self._end()


class Writer:
    """One JSON line a log in the work directory, and TensorBoard files beside it; both by the run's first process alone.

    Args:
      workdir: the run's folder. step: log lines after it are dropped; resuming repeats those steps.
      tensorboard: whether to write TensorBoard files (importing their writer takes seconds).
    """

    def __init__(self, workdir, step, tensorboard):
        self._path = epath.Path(workdir) / METRICS_FILE
        self._tensorboard = None
        if not cluster.is_first():
            return
        self._lines = [line for line in read_metrics(workdir) if line["step"] <= step]
        with self._writing():
            self._rewrite()
            if tensorboard:
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
                from clu import metric_writers

                self._tensorboard = metric_writers.SummaryWriter(str(workdir))

    def _rewrite(self):
        """Writes the file whole: buckets know no appending, and nobody sees a torn line."""
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self._lines), "log", ADVICE)

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # TensorFlow tells a full disk in kinds of its own
            raise UserError(f"{self._path.parent} takes no more logs ({one_line(error)}); {ADVICE}") from error

    def write(self, step, values):
        """Records numbers under a step. Raises UserError where they cannot be written."""
        if not cluster.is_first():
            return
        self._lines.append({"step": step, **values})
        with self._writing():
            self._rewrite()
            if self._tensorboard is not None:
                self._tensorboard.write_scalars(step, values)
                self._tensorboard.flush()

    def close(self):
        """Closes the TensorBoard files."""
        if self._tensorboard is not None:
            self._tensorboard.close()
