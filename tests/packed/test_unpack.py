"""A packed file gives back a network with the logits of the network that was packed; tensors that do not fit give one sentence."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.save import save
from bnext_jax.packed import file
from bnext_jax.packed.pack import pack
from bnext_jax.packed.unpack import restored, simulated
from bnext_jax.packed.xla import PackedConv
from tests.helpers.exact_networks import exact_network, logits

MELIUSNET = {"blocks": (1, 1, 1), "transitions": (16, 16), "growth": 16, "stem_width": 16}
NETWORKS = {
    "bnext": ("bnext", {"widths": (8, 8, 16)}),
    "without info-recoupling": ("bnext", {"widths": (8, 8, 16), "info_recoupling": False}),
    "quantized": ("bnext", {"widths": (8, 8, 16), "gate_bits": 4, "stem_bits": 8, "classifier_bits": 8}),
    "bnext18": ("bnext18", {"widths": (8, 16), "stem_stride": 2}),
    "MeliusNet, padded with -1": ("meliusnet", MELIUSNET),
    "MeliusNet, padded with 0": ("meliusnet", {**MELIUSNET, "variant": "larq", "stem": "grouped"}),
}
IMAGES = np.random.default_rng(5).standard_normal((2, 16, 32, 3), dtype=np.float32)


@pytest.mark.parametrize("kind", NETWORKS)
def test_restored_and_simulated_networks_have_the_logits_of_the_packed_one(tmp_path, kind):
    name, arguments = NETWORKS[kind]
    model, metadata = exact_network(name, **arguments)
    file.write(tmp_path / "net.bnext", *pack(model, metadata))
    content = file.read(tmp_path / "net.bnext")
    assert any(isinstance(module, PackedConv) for _, module in nnx.iter_modules(restored(*content)))
    found = logits(model, IMAGES)
    for build in (restored, simulated):
        other = build(*content)
        assert (other.config, other.total_stride) == (model.config, model.total_stride)
        np.testing.assert_allclose(logits(other, IMAGES), found, atol=1e-4 * found.std())


def test_a_simulated_network_can_be_saved_loaded_and_packed_again(tmp_path):
    model, metadata = exact_network(widths=(8, 8))
    tensors, description = pack(model, metadata)
    save(tmp_path / "net.safetensors", simulated(description, tensors))
    again, _ = pack(*load(tmp_path / "net.safetensors"))
    assert again.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-6, err_msg=name)


def test_clip_limits_that_a_kernel_reaches_do_not_cut_it_twice():
    model, metadata = exact_network(widths=(8, 8), classifier_bits=8)
    kernel = np.zeros((8, 10), np.float32)
    kernel[:, 0] = [-8, 8, 4, 4, 0, 0, 0, 8]  # cut to [-2, 4, 4, 4, 0, 0, 0, 4]: see test_pack
    model.classifier.kernel[...] = jnp.asarray(kernel)
    model.classifier.quantizer.weight_clip[...] = jnp.array([-0.25, 0.5])
    tensors, description = pack(model, metadata)
    for network in (restored(description, tensors).network, simulated(description, tensors)):
        layer = network.classifier
        np.testing.assert_allclose(layer.quantizer.kernel(layer.kernel[...])[:, 0], [-2, 4, 4, 4, 0, 0, 0, 4], atol=1e-5)


@pytest.fixture(scope="module")
def small():
    """(description, tensors) of a small network."""
    model, metadata = exact_network(widths=(8, 8))
    tensors, description = pack(model, metadata)
    return {**json.loads(json.dumps(description)), "source": "net.bnext"}, tensors


CHANGES = {
    "missing": ({"prelu/slope": None}, "net.bnext lacks prelu/slope; it is damaged"),
    "superfluous": ({"extra": np.zeros(1, np.float32)}, "net.bnext has tensors that its network does not have: extra; it is damaged"),
    "shape": ({"prelu/slope": np.zeros(9, np.float32)}, r"has prelu/slope as float32 \[9\], and its network needs float32 \[8\]"),
    "type": ({"prelu/slope": np.zeros(8, np.uint32)}, r"has prelu/slope as uint32 \[8\], and its network needs float32 \[8\]"),
    "nan": ({"prelu/slope": np.full(8, np.nan, np.float32)}, "net.bnext has numbers in prelu/slope that are not finite"),
}


@pytest.mark.parametrize("build", [restored, simulated])
@pytest.mark.parametrize("case", CHANGES)
def test_tensors_that_do_not_fit_give_one_sentence(small, case, build):
    change, message = CHANGES[case]
    description, tensors = small
    with pytest.raises(UserError, match=message):
        build(description, {name: array for name, array in {**tensors, **change}.items() if array is not None})


ARGUMENTS = {
    "no such name": ("bnext_huge", {}, "describes no network of this bnext_jax: there is no model 'bnext_huge'"),
    "no such argument": ("bnext", {"width": 3}, "describes no network of this bnext_jax: model 'bnext' takes no argument 'width'"),
    "a text": ("bnext", {"widths": "ab"}, "describes no network of this bnext_jax: widths is 'ab'; its type is tuple"),
    "a list of texts": (
        "bnext",
        {"widths": ["a", "b"]},
        r"describes no network of this bnext_jax: widths is \('a', 'b'\); its type is tuple",
    ),
    "an argument of the program": ("bnext", {"widths": [8, 8], "rngs": 0}, "describes"),
    "another argument of the program": ("bnext", {"widths": [8, 8], "num_classes": 3}, "describes"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_description_that_makes_no_network_gives_one_sentence(small, case):
    name, arguments, message = ARGUMENTS[case]
    description, tensors = small
    with pytest.raises(UserError, match=f"net.bnext {message}"):
        restored({**description, "model": {"name": name, "num_classes": 10, "arguments": arguments}}, tensors)
