"""Tensors with larq's and bitorch's names become a MeliusNet and back, exactly; files of bitorch hold the last stage twice."""

import logging

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.names.entry import ABSENT
from bnext_jax.io.names.recognise import recognise
from bnext_jax.io.names.rules import LAYOUTS, entries
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from bnext_jax.models.meliusnet import SIZES
from bnext_jax.models.table import abstract_model
from tests.helpers import golden_files, zoo_files, zoo_networks

FILES = {path.stem: path for path in golden_files.files("zoo") if "meliusnet" in path.stem and "block" not in path.stem}
RECOGNISED = {
    "meliusnet_22_1000c_64px": ("meliusnet22", 1000, {"variant": "larq"}),
    "meliusnet_29_1000c_64px": ("meliusnet29", 1000, {"stem": "imagenet"}),
    "meliusnet_small_10c_64px": (
        "meliusnet", 10, {"blocks": (1, 2, 1, 1), "transitions": (96, 80, 64), "variant": "larq", "stem": "grouped"},
    ),
    "meliusnet_bitorch_small_10c_64px": (
        "meliusnet", 10, {"blocks": (1, 2, 1, 1), "transitions": (32, 32, 32), "growth": 16, "stem_width": 32, "stem": "imagenet"},
    ),
}  # fmt: skip


def tensors_of(stem):
    """({reference's name: array}, meta) of a golden file."""
    arrays, meta = golden_files.read(FILES[stem])
    return arrays, meta, zoo_files.weights(arrays, meta)


def shapes(model):
    """{the reference's name: a broadcast zero of the reference's shape}."""
    named = [entry for entry in entries(model) if entry.layout != ABSENT]
    return {e.name: LAYOUTS[e.layout][0](np.broadcast_to(np.float32(0), e.shape)) for e in named}


@pytest.mark.parametrize("stem", RECOGNISED)
def test_each_meliusnet_of_a_reference_is_recognized_and_has_its_names_in_its_order(stem):
    arrays, _, tensors = tensors_of(stem)
    assert recognise(tensors) == RECOGNISED[stem]
    name, classes, arguments = RECOGNISED[stem]
    ours = shapes(abstract_model(name, classes, **arguments))
    assert list(ours) == list(map(str, arrays["names"]))
    assert {key: array.shape for key, array in ours.items()} == {key: array.shape for key, array in tensors.items()}


@pytest.mark.parametrize(
    ("name", "classes", "arguments"),
    [
        *((name, 1000, {}) for name in SIZES),
        *((name, 10, {"variant": "larq"}) for name in ("meliusnet22", "meliusnet_a")),
        ("meliusnet22", 10, {"stem": "grouped"}),
    ],
)
def test_each_published_network_is_recognized_by_its_names_and_shapes(name, classes, arguments):
    assert recognise(shapes(abstract_model(name, classes, **arguments))) == (name, classes, arguments)


@pytest.mark.parametrize("stem", ["meliusnet_small_10c_64px", "meliusnet_bitorch_small_10c_64px"])
def test_a_round_trip_keeps_names_types_and_values(stem):
    arrays, meta, tensors = tensors_of(stem)
    back = to_state_dict(from_state_dict(zoo_networks.network(arrays, meta), tensors))
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_larqs_kernel_of_each_group_holds_the_outputs_of_this_group():
    arrays, meta, tensors = tensors_of("meliusnet_small_10c_64px")
    model = from_state_dict(zoo_networks.network(arrays, meta), tensors)
    kernel = np.asarray(model.stem.convs[1].kernel[...])
    for group in range(4):
        np.testing.assert_array_equal(kernel[..., 8 * group : 8 * group + 8], tensors[f"stem_s1_groupconv_conv{group}/kernel"])


def with_copy(tensors):
    """A state dict as bitorch writes it: with a prefix, and with the last stage a second time."""
    last = "features.DenseBlock_4."
    copies = {"current_dense_block." + name.removeprefix(last): array.copy() for name, array in tensors.items() if name.startswith(last)}
    return {"_model." + name: array for name, array in {**tensors, **copies}.items()}


def test_a_file_of_bitorch_is_read_without_its_prefix_and_its_second_last_stage(tmp_path, caplog):
    _, _, tensors = tensors_of("meliusnet_bitorch_small_10c_64px")
    save_file(with_copy(tensors), tmp_path / "net.safetensors")
    with caplog.at_level(logging.INFO):
        model, metadata = load(tmp_path / "net.safetensors")
    assert (metadata["model"]["name"], metadata["model"]["num_classes"], metadata["model"]["arguments"]) == RECOGNISED[
        "meliusnet_bitorch_small_10c_64px"
    ]
    for name, array in to_state_dict(model).items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)
    assert "begin with _model., which is left out" in caplog.text
    assert "does not say how it pads, pools and shuffles; taking the published rules of bitorch" in caplog.text
    assert "net.safetensors holds its last stage twice; left out the second copy, 12 tensors under current_dense_block." in caplog.text


def test_a_second_last_stage_with_other_values_is_refused(tmp_path):
    _, _, tensors = tensors_of("meliusnet_bitorch_small_10c_64px")
    changed = with_copy(tensors)
    changed["_model.current_dense_block.DenseLayer_1.features.0.bias"][3] += 1
    save_file(changed, tmp_path / "net.safetensors")
    with pytest.raises(
        UserError, match=r"net.safetensors: current_dense_block.DenseLayer_1.features.0.bias is not a copy of features.Dense"
    ):
        load(tmp_path / "net.safetensors")


def test_a_file_with_larqs_names_gives_every_variable_a_value(tmp_path):
    _, _, tensors = tensors_of("meliusnet_small_10c_64px")
    save_file(tensors, tmp_path / "net.safetensors")
    model, metadata = load(tmp_path / "net.safetensors")
    assert metadata["model"]["arguments"]["variant"] == "larq"
    assert int(model.norm.batches[...]) == 0  # Keras counts no batches
    assert all(isinstance(variable.get_value(), jax.Array) for _, variable in nnx.to_flat_state(nnx.state(model)))


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (
            "features.DenseBlock_1.DenseLayer_1.features.1.weight",
            "looks like MeliusNet but lacks 'features.DenseBlock_1.DenseLayer_1",
        ),
        ("features.Transition_2.3.weight", "looks like MeliusNet but lacks 'the convolution of transition 2'"),
        ("output.weight", "looks like MeliusNet but lacks 'output.weight'"),
    ],
)
def test_a_file_without_a_tensor_that_tells_the_widths_is_refused(lost, message):
    _, _, tensors = tensors_of("meliusnet_bitorch_small_10c_64px")
    del tensors[lost]
    with pytest.raises(UserError, match=message):
        recognise(tensors)


def test_shapes_without_numbers_are_refused():
    _, _, tensors = tensors_of("meliusnet_bitorch_small_10c_64px")
    for name in ("features.DenseBlock_1.DenseLayer_1.features.1.weight", "features.Transition_1.3.weight", "features.0.weight"):
        with pytest.raises(UserError, match="looks like MeliusNet"):
            recognise({**tensors, name: np.float32(1)})
