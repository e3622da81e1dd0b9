"""Layers (with gradients) and a whole network of the quantized edition equal the reference outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.io.names.recognise import recognise
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from bnext_jax.models.table import abstract_model
from bnext_jax.nn.layers import Conv, Linear
from tests.helpers import golden_files

FILES = golden_files.files("quantized")
NETWORKS = [path for path in FILES if path.stem.startswith("bnext")]

pytestmark = pytest.mark.golden


def _layer(name, meta, weight):
    """Returns (our layer for the shape of the weight, its function PyTorch weight -> kernel, its function PyTorch map -> our map)."""
    features, inputs, size, _ = (*weight.shape, 1, 1)[:4]
    bits = meta["weight_bits"]
    if name.startswith("stem"):
        layer = Conv(inputs, features, size, meta["stride"], weight_bits=bits, rngs=nnx.Rngs(0))
        return layer, lambda w: w.transpose(2, 3, 1, 0), lambda x: x.transpose(0, 2, 3, 1)
    layer = Linear(inputs, features, decay="rest" if name.startswith("fc") else "weights", bits=bits, rngs=nnx.Rngs(0))
    return layer, lambda w: w.reshape(features, inputs).T, lambda x: x.reshape(x.shape[:2])


@pytest.mark.parametrize("path", [path for path in FILES if path not in NETWORKS], ids=lambda path: path.stem)
def test_golden_quantized_layer(path):
    arrays, meta = golden_files.read(path)
    layer, kernel_layout, map_layout = _layer(path.stem, meta, arrays["weight"])
    if layer.bias is not None:
        layer.bias[...] = jnp.asarray(arrays["bias"])
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    given = {"kernel": jnp.asarray(kernel_layout(arrays["weight"])), "bias": params["bias"][...] if layer.bias is not None else None}

    def apply(x, kernel):
        state = {"kernel": kernel} if given["bias"] is None else {"kernel": kernel, "bias": given["bias"]}
        return nnx.merge(graphdef, {**state, **nnx.to_pure_dict(rest)})(x)

    y, pullback = jax.vjp(apply, jnp.asarray(map_layout(arrays["x"])), given["kernel"])
    dx, dweight = pullback(jnp.asarray(map_layout(arrays["cotangent"])))
    expected = {"y": map_layout(arrays["y"]), "dx": map_layout(arrays["dx"]), "dweight": kernel_layout(arrays["dweight"])}
    for key, found in {"y": y, "dx": dx, "dweight": dweight}.items():
        assert np.abs(np.asarray(found) - expected[key]).max() <= 1e-5 * np.abs(expected[key]).max(), key


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_golden_quantized_network_is_recognized_gives_its_logits_and_round_trips(path):
    arrays, meta = golden_files.read(path)
    tensors = golden_files.weights(arrays, meta)
    name, classes, arguments = recognise(tensors)
    assert (name, classes) == (f"bnext_{meta['size']}", meta["num_classes"])
    assert arguments == {"gate_bits": 4, "stem_bits": meta["stem_bits"], "classifier_bits": meta["fc_bits"]}
    model = from_state_dict(abstract_model(name, classes, **{**arguments, "gate_bits": meta["se_bits"]}), tensors)
    back = to_state_dict(model)
    assert list(back) == list(map(str, arrays["names"])) and all(np.array_equal(back[key], tensors[key]) for key in back)
    shape = (meta["batch"], 3, meta["resolution"], meta["resolution"])
    images = golden_files.nhwc(np.random.default_rng(meta["input_seed"]).standard_normal(shape, dtype=np.float32))
    graphdef, state = nnx.split(model)
    logits = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)
    assert np.abs(np.asarray(logits) - arrays["logits"]).max() <= 5e-3 * arrays["logits"].std()
