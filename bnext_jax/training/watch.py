"""What a run measures: sums over an epoch, the state of the binary weights, and times. training.records writes them."""

import collections
import contextlib
import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from bnext_jax.errors import UserError

if TYPE_CHECKING:
    from bnext_jax.nn.network import Network

log = logging.getLogger(__name__)


class NotFinite(UserError):
    """A loss or a gradient is not finite.

    Attributes:
      step: the step, counted from 0.
      values: {name: number}, the step's metrics.
    """

    def __init__(self, step: int, values: dict[str, float]) -> None:
        self.step, self.values = step, values
        super().__init__(
            f"the loss or its gradient is not finite at step {step} (loss {values['loss']}, gradient norm {values['grad_norm']});"
            " the last good checkpoint is kept: lower config.optimizer.learning_rate or look at the data, in a new --workdir"
        )


class Meter:
    """Sums the metrics of the steps.

    It reads the metrics of a step only when the next step has started, so the host does not wait for the newest step.

    Attributes:
      loss: sum of the losses (nats) since the last reset.
      steps: number of steps read since the last reset.
      undecodable: number of images since the last reset that could not be decoded and were replaced.
      last: {name: number}, the newest metrics read since the last reset.
      stop: the largest sum of flags read so far (see training.preemption).
    """

    def __init__(self) -> None:
        self._unread: tuple[int, Mapping[str, jax.Array]] | None
        self.stop: float
        self._unread, self.stop = None, 0
        self.reset()

    def reset(self) -> None:
        """Starts new sums."""
        self.loss: float
        self.loss = self.steps = self.undecodable = 0
        self._hits: dict[str, Any] = collections.Counter()
        self.last: dict[str, float] = {}

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics {name: scalar on the devices} of one step (counted from 0), and reads those of the previous step.

        Raises:
          NotFinite: the loss or the gradient norm that is read here is not finite.
        """
        self.read()
        self._unread = step, metrics

    def read(self) -> None:
        """Reads the metrics that are still unread, if any. Raises NotFinite like `add`."""
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

    def top1(self) -> dict[str, float]:
        """{"top1", "top1/main", "top1/assistant"}: training images that student and teachers classified correctly since the last reset."""
        return {name.replace("correct", "top1"): hits for name, hits in self._hits.items()}

    def norms(self) -> dict[str, float]:
        """The norms of the newest step: of everything ("grad_norm") and of each group ("update_norm/latent")."""
        return {name: value for name, value in self.last.items() if "_norm" in name}


@functools.partial(jax.jit, static_argnums=0)
def _signs(quantizers, latents):
    """[int8 signs] of the latent weights, one array per layer. quantizers: tuple of WeightQuantizer, one per layer."""
    return [quantizer.signs(latent).astype(jnp.int8) for quantizer, latent in zip(quantizers, latents, strict=True)]


@functools.partial(jax.jit, static_argnums=0)
def _count(quantizers, latents, before, temperature):
    """Counts weights in each layer. before: the signs at the last look.

    Returns:
      ([[exactly binary, flipped since the last look, sign +1] per layer], [the signs now, per layer]).
    """
    now = _signs(quantizers, latents)
    counted = [
        jnp.stack([jnp.sum(quantizer.binary(latent, temperature)), jnp.sum(signs != old), jnp.sum(signs > 0)])
        for quantizer, latent, signs, old in zip(quantizers, latents, now, before, strict=True)
    ]
    return counted, now


class BinaryWatch:
    """Measures the share of exactly binary weights and the flip ratio, the share of weights that changed sign since the last look.

    The quantizers tell the signs and which weights are exactly binary.

    Args:
      network: tells the latent weights and their quantizers.
      params: {path: array}, the parameters to compare the first look with.
    """

    def __init__(self, network: "Network", params: Mapping[str, jax.Array]) -> None:
        self._network, self._paths, self._quantizers = network, tuple(network.latent), tuple(network.latent.values())
        self._before = _signs(self._quantizers, self._chosen(params))

    def _chosen(self, params):
        return [params[path] for path in self._paths]

    def look(self, variables: Mapping[str, jax.Array], temperature: float | None, layers: bool = False) -> dict[str, float]:
        """Measures the weights, and keeps their signs for the next look.

        Args:
          variables: {path: array}, all variables now.
          temperature: of the binary weights; None for a network that takes none.
          layers: also measure each layer.
        Returns:
          {"binary_share", "flip_ratio"}, both in [0, 1]; {} for a network without binary weights. binary_share is 0 while a Switch lets
          the network multiply with its latent weights. With `layers` also "flip_ratio/LAYER" and "plus_share/LAYER", the share of the
          layer's weights with sign +1.
        """
        if not self._paths:
            return {}
        latents = self._chosen(variables)
        annealed = None if temperature is None else jnp.float32(temperature)
        counted, self._before = _count(self._quantizers, latents, self._before, annealed)
        counted = [counts.astype(int) for counts in jax.device_get(counted)]
        total = sum(latent.size for latent in latents)
        binary, flips, _ = sum(counted)
        found = {"binary_share": int(binary) / total if self._network.binarizes(variables) else 0.0, "flip_ratio": int(flips) / total}
        for path, latent, (_, flipped, positive) in zip(self._paths, latents, counted, strict=True) if layers else ():
            name, size = path.removesuffix("/kernel"), latent.size
            found |= {f"flip_ratio/{name}": int(flipped) / size, f"plus_share/{name}": int(positive) / size}
        return found


def is_binary(network: "Network", variables: Mapping[str, jax.Array], temperature: float | None) -> bool:
    """Whether every binary weight is exactly +-1 (times its channel's scale, if it has one) at this temperature.

    False also for a network without binary weights. The arguments are those of BinaryWatch and of its `look`.
    """
    return BinaryWatch(network, variables).look(variables, temperature).get("binary_share") == 1.0


class Clock:
    """Splits a run's time into measured parts. The time that is not measured counts as steps.

    Attributes:
      total: seconds of steps and of waits for data, summed over all calls of `read`.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.reset()

    def reset(self) -> None:
        """Sets all times to zero, except `total`."""
        self._parts: dict[str, Any]
        self._began, self._parts = time.perf_counter(), collections.Counter()

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Adds the time that the block takes to `part`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] += time.perf_counter() - began

    def read(self) -> dict[str, float]:
        """{"step_seconds", "data_wait_seconds", "checkpoint_seconds", "compile_seconds"} since the last reset."""
        parts = {part: self._parts[part] for part in ("data_wait", "checkpoint", "compile")}
        parts = {"step": time.perf_counter() - self._began - sum(parts.values()), **parts}
        self.total += parts["step"] + parts["data_wait"]
        return {f"{part}_seconds": seconds for part, seconds in parts.items()}

    def parts(self, name: str) -> dict[str, float]:
        """{"NAME_seconds"} of one part; {} if it was not measured since the last reset."""
        return {f"{name}_seconds": self._parts[name]} if name in self._parts else {}
