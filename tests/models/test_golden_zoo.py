"""The eight networks and their blocks compute what the reference implementations compute, with gradients and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.io.names.rules import LAYOUTS, entries
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from tests.helpers import golden_files, zoo_files, zoo_networks

pytestmark = pytest.mark.golden
FILES = [path for path in golden_files.files("zoo") if path.stem != "binarizers"]


def is_block(path):
    return "_block" in path.stem


def normal(seed, shape):
    return golden_files.nhwc(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("path", [path for path in FILES if not is_block(path)], ids=lambda path: path.stem)
def test_golden_logits_of_a_whole_network(path):
    arrays, meta = golden_files.read(path)
    model = from_state_dict(zoo_networks.network(arrays, meta), zoo_files.weights(arrays, meta))
    images = normal(meta["input_seed"], (meta["batch"], 3, meta["resolution"], meta["resolution"]))
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    logits = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)
    bound = (1e-3 if meta["network"] == "pokebnn" else 1e-4) * arrays["logits"].std()
    assert np.abs(np.asarray(logits) - arrays["logits"]).max() <= bound


def close(ours, reference, what, tolerance):
    """Asserts that the error is at most `tolerance` times the largest magnitude of the reference, or times 0.1 where that is larger."""
    bound = tolerance * max(np.abs(reference).max(), 0.1)
    assert ours.shape == reference.shape, what
    worst = np.abs(np.asarray(ours, np.float64) - reference).max()
    assert worst <= bound, f"{what}: {worst:.3g} > {bound:.3g}"


@pytest.mark.parametrize("path", [path for path in FILES if is_block(path)], ids=lambda path: path.stem)
def test_golden_outputs_gradients_and_statistics_of_a_block(path):
    arrays, meta = golden_files.read(path)
    tolerance = 1e-3 if "pokebnn" in meta["block"] else 1e-4
    block, prefix, call = zoo_networks.block(arrays, meta)
    drawn = {name.removeprefix(prefix): value for name, value in zoo_files.weights(arrays, meta).items()}
    from_state_dict(block, drawn)
    x = normal(meta["input_seed"], meta["input_shape_nchw"])
    cotangent = normal(meta["cotangent_seed"], arrays["train"].shape)
    close(call(nnx.view(block, use_running_average=True), x), golden_files.nhwc(arrays["eval"]), "eval", tolerance)

    graphdef, *states = nnx.split(nnx.view(block, use_running_average=False), nnx.Param, ...)
    params, rest = map(nnx.as_pure, states)

    @jax.jit
    def forward(params, x):
        module = nnx.merge(graphdef, params, rest)
        return call(module, x), nnx.as_pure(nnx.state(module, nnx.BatchStat))

    out, vjp, stats = jax.vjp(forward, params, jnp.asarray(x), has_aux=True)
    close(out, golden_files.nhwc(arrays["train"]), "train", tolerance)
    grads, dx = vjp(jnp.asarray(cotangent))
    close(dx, golden_files.nhwc(arrays["dx"]), "dx", tolerance)

    nnx.update(block, stats)
    ours = to_state_dict(block)
    for name in (key for key in arrays if key.startswith("stat:")):
        close(ours[name[5:].removeprefix(prefix)], arrays[name], name, tolerance)

    nnx.update(block, grads)  # gradients in place of the parameters: entries() gives the reference's names and layouts
    trained = {e.name: LAYOUTS[e.layout][0](np.asarray(e.variable[...])) for e in entries(block) if isinstance(e.variable, nnx.Param)}
    assert trained.keys() == {name[5:].removeprefix(prefix) for name in arrays if name.startswith("grad:")}
    for name, gradient in trained.items():
        close(gradient, arrays[f"grad:{prefix}{name}"], f"gradient of {name}", tolerance)
