"""A tiny binary network with two switches and a statistic of its own, and its training on one or several devices.

`trained` gives the state after some steps, on batches that `images` draws. main(OUTPUT, DEVICES, CASE...) does it on several devices.
"""

import contextlib
import dataclasses

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.config import DistillConfig, OptimizerConfig, TemperatureConfig
from bnext_jax.models.base import NetworkConfig, TableModel
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.layers import Linear, channel_means
from bnext_jax.nn.network import fill, split
from bnext_jax.nn.quantizers import SteSign, WeightQuantizer
from bnext_jax.nn.variables import Switch
from bnext_jax.training import mesh, optimizers
from bnext_jax.training.step import StepSpec, compile_step, initial_state, make_step

BATCH, GROUP, CLASSES = 12, 2, 10
STEPS_PER_EPOCH, EPOCHS = 5, 3
# case -> precision, accumulate, mesh
CASES = {
    "float32": ("float32", 1, ""),
    "float64": ("float64", 1, ""),
    "pieces": ("float32", 3, ""),
    "sharded": ("float32", 1, "shard=2"),
    "sharded pieces": ("float64", 3, "shard=2"),
}


@jax.custom_vjp
def plus_or_minus(latent):
    """+1 where latent >= 0, else -1; the gradient passes."""
    return jnp.where(latent >= 0, 1, -1).astype(latent.dtype)


plus_or_minus.defvjp(lambda latent: (plus_or_minus(latent), None), lambda _, gradient: (gradient,))


@dataclasses.dataclass(frozen=True)
class Sign(WeightQuantizer):
    """The sign, +1 at 0."""

    def __call__(self, latent, temperature=None):
        return plus_or_minus(latent)

    def signs(self, latent):
        return plus_or_minus(latent)


class LateConv(BinaryConv):
    """A binary convolution that multiplies with its latent weights before epoch `since`."""

    def __init__(self, *sizes, since, **arguments):
        super().__init__(*sizes, **arguments)
        self.quantizes = Switch(unit="epoch", since=since, binarizes=True)

    def __call__(self, x, temperature=None):
        kernel = jnp.where(self.quantizes[...], self.kernel_quantizer(self.kernel[...]), self.kernel[...]).astype(x.dtype)
        return jax.lax.conv_general_dilated(self.input_quantizer(x), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@dataclasses.dataclass(frozen=True)
class TinyConfig(NetworkConfig):
    """binary_from: the epoch from which on weights are binary. bound_from: the step that sets the bounds."""

    binary_from: int = 1
    bound_from: int = 7


class Tiny(TableModel):
    """Clips the image to bounds, then binary convolution, batch norm, classifier.

    largest: per channel, moves a quarter of the way to max|image| in every training step (averaged over batch-norm groups).
    bounds: -1 = no bound; set to `largest` in step bound_from, and kept from then on.
    """

    def __init__(self, config, num_classes, *, rngs):
        self.config = config
        self.conv = LateConv(3, 8, 3, since=config.binary_from, input_quantizer=SteSign(), kernel_quantizer=Sign(), rngs=rngs)
        self.bounded = Switch(unit="step", since=config.bound_from)
        self.largest, self.bounds = nnx.BatchStat(jnp.zeros(3)), nnx.BatchStat(-jnp.ones(3))
        self.norm = BatchNorm(8)
        self.classifier = Linear(8, num_classes, rngs=rngs)
        self.use_running_average, self.batch_norm_group = False, None

    def set_view(self, use_running_average=None, batch_norm_group=...):
        """See BatchNorm.set_view."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if batch_norm_group is not ...:
            self.batch_norm_group = batch_norm_group

    def __call__(self, images):
        if not self.use_running_average:
            groups = jnp.abs(images).reshape(-1, self.batch_norm_group or len(images), *images.shape[1:])
            found = groups.max((1, 2, 3)).mean(0).astype(self.largest.dtype)
            self.largest[...] = self.largest[...] + 0.25 * (found - self.largest[...])
            self.bounds[...] = jnp.where(self.bounded[...] & (self.bounds[...] == -1), self.largest[...], self.bounds[...])
        bounds = jnp.where(self.bounds[...] == -1, jnp.inf, self.bounds[...]).astype(images.dtype)
        x = self.norm(self.conv(jnp.clip(images, -bounds, bounds)))
        return self.classifier(channel_means(x))


def images(step):
    """The training images of a step, already normalized."""
    return np.random.default_rng(step).standard_normal((BATCH, 8, 8, 3))


def labels(step):
    """Their labels."""
    return np.random.default_rng(1000 + step).integers(0, CLASSES, BATCH)


@contextlib.contextmanager
def compilations():
    """Gives a list that gets the name of each program that XLA compiles meanwhile.

    The size of a jitted function's own cache would not do: in a process with thousands of them it may stay 0.
    """
    names = []

    def heard(event, seconds, fun_name="", **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def trained(case, steps, start=None, first=0):
    """Does the steps first, ..., first + steps - 1 of a case.

    Returns:
      (Network, {path: array} of all variables before the first step, state, metrics of each step, how often the step was compiled).
    """
    precision, accumulate, devices = CASES[case]
    dtype = jnp.dtype(precision)
    network, params, stats = split(Tiny(TinyConfig(), CLASSES, rngs=nnx.Rngs(0)), training=True, batch_norm_group=GROUP)
    adamw = optimizers.make_optimizer(OptimizerConfig(), network.decay_groups)
    spec = StepSpec(STEPS_PER_EPOCH, EPOCHS, (0, 0, 0), (1, 1, 1), dtype, dtype, DistillConfig(), GROUP,
                    OptimizerConfig(warmup_epochs=0), TemperatureConfig(), accumulate)  # fmt: skip
    shardings = mesh.make_shardings(devices)
    fresh = jax.tree.map(np.array, {**params, **stats})  # the step may donate the arrays themselves
    current = shardings.put_state(initial_state(network, params, stats, adamw) if start is None else start)
    step = compile_step(make_step(network, {}, adamw, spec, shardings), shardings, current)
    go, seen = shardings.put_flag(0), []
    with compilations() as names:
        for number in range(first, first + steps):
            batch = shardings.put_batch({"image": images(number).astype(dtype), "label": labels(number)})
            current, metrics = step(current, batch, go, {})
            seen.append({name: float(value) for name, value in metrics.items()})
    return network, fresh, current, seen, names.count("jit(step)")


def evaluated(variables, image):
    """The logits of a network with these variables, in evaluation."""
    model = Tiny(TinyConfig(), CLASSES, rngs=nnx.Rngs(0))
    _, params, _ = split(model, training=False)
    filled = fill(model, {key: variables[key] for key in params}, {key: variables[key] for key in variables.keys() - params.keys()})
    network, *_ = split(filled, training=False)
    return np.asarray(network(variables, image)[0])


def main(output, devices, steps, *cases):
    """All arguments are text, because launcher.start passes text. Writes the states of the cases to OUTPUT/CASE.npz."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    from bnext_jax.io.digest import on_host

    for case in cases:
        with jax.enable_x64(CASES[case][0] == "float64"):
            state = trained(case, int(steps))[2]
            arrays = {path: on_host(array) for part in ("params", "batch_stats") for path, array in state[part].items()}
        np.savez(f"{output}/{case}.npz", **arrays)
