"""Outputs, gradients and running statistics of every unit equal the reference's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.io.names.rules import LAYOUTS, entries
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from tests.helpers import golden_files
from tests.helpers.golden_units import build


def close(ours, reference, what):
    """Asserts that the error is at most 1e-4 times the largest magnitude of the reference, or 1e-4 * 0.1 where that is larger."""
    bound = 1e-4 * max(np.abs(reference).max(), 0.1)
    assert ours.shape == reference.shape, what
    worst = np.abs(np.asarray(ours, np.float64) - reference).max()
    assert worst <= bound, f"{what}: {worst:.3g} > {bound:.3g}"


@pytest.mark.parametrize("path", golden_files.files("units"), ids=lambda path: path.stem)
def test_golden_unit_outputs_gradients_and_statistics(path, lowering):
    arrays, meta = golden_files.read(path)
    module = from_state_dict(build(meta["unit"], arrays), golden_files.weights(arrays, meta, calibrated=False))
    shape = meta["input_shape_nchw"]
    x = golden_files.nhwc(np.random.default_rng(meta["input_seed"]).standard_normal(shape, dtype=np.float32))
    cotangent = golden_files.nhwc(np.random.default_rng(meta["cotangent_seed"]).standard_normal(arrays["train"].shape, dtype=np.float32))
    temperature = jnp.float32(meta["temperature"])

    evaluated = nnx.view(module, use_running_average=True)(x, temperature)
    close(evaluated, golden_files.nhwc(arrays["eval"]), "eval")

    graphdef, *states = nnx.split(module, nnx.Param, ...)
    params, rest = map(nnx.as_pure, states)

    @jax.jit
    def forward(params, x):
        unit = nnx.merge(graphdef, params, rest)
        return unit(x, temperature), nnx.as_pure(nnx.state(unit, nnx.BatchStat))

    out, vjp, stats = jax.vjp(forward, params, x, has_aux=True)
    close(out, golden_files.nhwc(arrays["train"]), "train")
    grads, dx = vjp(cotangent)
    close(dx, golden_files.nhwc(arrays["dx"]), "dx")

    nnx.update(module, stats)
    ours = to_state_dict(module)
    for name in (key for key in arrays if key.startswith("stat:")):
        close(ours[name[5:]], arrays[name], name)

    nnx.update(module, grads)  # stores the gradients in place of the parameters, so that entries() gives their PyTorch names and layouts
    trained = {e.name: LAYOUTS[e.layout][0](np.asarray(e.variable[...])) for e in entries(module) if isinstance(e.variable, nnx.Param)}
    assert trained.keys() == {name[5:] for name in arrays if name.startswith("grad:")}
    for name, gradient in trained.items():
        close(gradient, arrays[f"grad:{name}"], f"gradient of {name}")
