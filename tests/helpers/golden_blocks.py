"""Compares a block or unit with its reference output: outputs, gradients and running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.io.names.rules import LAYOUTS, entries
from bnext_jax.io.torch.state_dict import to_state_dict
from tests.helpers import golden_files


def close(ours, reference, what, tolerance=1e-4):
    """Asserts that the error is at most `tolerance` times the largest magnitude of the reference, or times 0.1 where that is larger."""
    bound = tolerance * max(np.abs(reference).max(), 0.1)
    assert ours.shape == reference.shape, what
    worst = np.abs(np.asarray(ours, np.float64) - reference).max()
    assert worst <= bound, f"{what}: {worst:.3g} > {bound:.3g}"


def normal(seed, shape):
    """Standard normal numbers of an NCHW shape, as NHWC."""
    return golden_files.nhwc(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def compare(module, call, arrays, meta, prefix="", tolerance=1e-4):
    """Asserts that a module computes what one file says.

    Args:
      module: with the file's weights.
      call: function of (module, input) that computes the output.
      arrays: of the file.
      meta: of the file.
      prefix: what the file puts before the module's names.
      tolerance: see close.
    """
    x, cotangent = normal(meta["input_seed"], meta["input_shape_nchw"]), normal(meta["cotangent_seed"], arrays["train"].shape)
    close(call(nnx.view(module, use_running_average=True), x), golden_files.nhwc(arrays["eval"]), "eval", tolerance)

    graphdef, *states = nnx.split(nnx.view(module, use_running_average=False), nnx.Param, ...)
    params, rest = map(nnx.as_pure, states)

    @jax.jit
    def forward(params, x):
        unit = nnx.merge(graphdef, params, rest)
        return call(unit, x), nnx.as_pure(nnx.state(unit, nnx.BatchStat))

    out, vjp, stats = jax.vjp(forward, params, jnp.asarray(x), has_aux=True)
    close(out, golden_files.nhwc(arrays["train"]), "train", tolerance)
    grads, dx = vjp(jnp.asarray(cotangent))
    close(dx, golden_files.nhwc(arrays["dx"]), "dx", tolerance)

    nnx.update(module, stats)
    ours = to_state_dict(module)
    for name in (key for key in arrays if key.startswith("stat:")):
        close(ours[name[5:].removeprefix(prefix)], arrays[name], name, tolerance)

    nnx.update(module, grads)  # gradients in place of the parameters: entries() gives the reference's names and layouts
    trained = {e.name: LAYOUTS[e.layout][0](np.asarray(e.variable[...])) for e in entries(module) if isinstance(e.variable, nnx.Param)}
    assert trained.keys() == {name[5:].removeprefix(prefix) for name in arrays if name.startswith("grad:")}
    for name, gradient in trained.items():
        close(gradient, arrays[f"grad:{prefix}{name}"], f"gradient of {name}", tolerance)
