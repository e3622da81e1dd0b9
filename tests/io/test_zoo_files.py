"""Files of the eight networks as their authors publish them are taken as they are, recognised, and written back under the same names."""

import json

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import serialization

from bnext_jax.data.preprocessing import published
from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.names.recognise import recognise
from bnext_jax.io.save import save
from bnext_jax.io.torch import torch_files
from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.nn.network import split
from bnext_jax.training.init import start_from
from tests.helpers import golden_files
from tests.helpers.zoo_small import SMALL, logits, varied

NAMES = {"bnn_18": "bnn18", "xnor_18": "xnornet18", "bireal_18": "birealnet18", "reactnet_18": "reactnet18"}
AMBIGUOUS = ("bnn18", "xnornet18")
# networks whose reference is written in PyTorch
TORCH = [
    ("birealnet18", {}),
    ("reactnet18", {}),
    ("reactnet_a", {}),
    ("bnn18", {}),
    ("xnornet18", {}),
    ("meliusnet", {"variant": "bitorch"}),
]


def keras_file(path, tensors):
    """Writes Keras's HDF5 file of weights: a group a layer, with the names of its weights."""
    layers = {}
    for name, array in tensors.items():
        layers.setdefault(name.rpartition("/")[0], []).append((name, array))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{name}:0".encode() for name, _ in weights]
            for name, array in weights:
                group.create_dataset(f"{name}:0", data=array)


def flax_file(path, tensors):
    """Writes Flax's msgpack file of a tree."""
    tree = {}
    for name, array in tensors.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.asarray(array)
    path.write_bytes(serialization.msgpack_serialize(tree))


@pytest.mark.parametrize(
    "path", [p for p in golden_files.files("zoo") if "_block" not in p.stem and p.stem != "binarizers"], ids=lambda p: p.stem
)
def test_each_network_of_the_reference_is_recognised_by_its_names(path):
    arrays, meta = golden_files.read(path)
    pairs = zip(map(str, arrays["names"]), arrays["shapes"], strict=True)
    tensors = {name: np.broadcast_to(np.float32(0), json.loads(str(shape))) for name, shape in pairs}
    expected = NAMES.get(meta["network"], meta["network"])
    full = meta["num_classes"] == 1000
    name, classes, arguments = recognise(tensors, expected)
    assert classes == meta["num_classes"] and name.startswith(expected)
    if meta["network"] in ("meliusnet", "pokebnn"):
        return  # their own tests compare the arguments
    widths = {} if full else {"widths": tuple(meta["widths"])}
    stem = {} if full or expected == "reactnet_a" else {"stem_stride": 2}
    assert arguments == widths | stem


@pytest.mark.parametrize(("name", "more"), TORCH, ids=[name for name, _ in TORCH])
def test_a_published_pytorch_file_is_read_as_it_is_and_written_under_the_same_names(tmp_path, name, more):
    model = varied(name, **more)
    tensors = to_state_dict(model)
    published = {f"module.{key}": torch.from_numpy(np.array(value)) for key, value in tensors.items()}
    torch.save({"epoch": 3, "state_dict": published}, tmp_path / "a.pth.tar")
    expected = name if name in AMBIGUOUS else None
    found, metadata = load(tmp_path / "a.pth.tar", expected)
    assert metadata["model"]["name"] == name and metadata["epoch"] == 3
    np.testing.assert_array_equal(logits(found), logits(model))
    save(tmp_path / "b.pth.tar", found, metadata)
    again = torch_files.read(tmp_path / "b.pth.tar").tensors
    assert list(again) == list(tensors)
    jax.tree.map(np.testing.assert_array_equal, again, tensors)
    told = load(tmp_path / "b.pth.tar")[1]["model"]  # our file says which network it is
    assert told == json.loads(json.dumps(metadata["model"]))


def test_binary_weights_of_bireal_net_and_reactnet_a_are_columns_in_their_files():
    tensors = to_state_dict(varied("birealnet18"))
    assert tensors["layer1.0.binary_conv.weights"].shape == (16 * 16 * 9, 1)
    kernel = varied("birealnet18").stages[0][0].conv.kernel[...]  # HWIO
    for place in ((0, 0, 0, 0), (2, 1, 3, 5)):
        h, w, i, o = place
        assert tensors["layer1.0.binary_conv.weights"][((o * 16 + i) * 3 + h) * 3 + w, 0] == kernel[place]
    assert to_state_dict(varied("reactnet_a"))["feature.1.binary_3x3.weights"].shape == (16 * 16 * 9, 1)
    assert to_state_dict(varied("reactnet18"))["layer1.0.binary_conv.weight"].shape == (16, 16, 3, 3)


@pytest.mark.parametrize(("name", "more"), [("real_to_binary", {}), ("strong_baseline", {}), ("meliusnet", {"variant": "larq"})])
def test_a_keras_file_of_larqs_zoo_is_read_as_it_is(tmp_path, name, more):
    model = varied(name, **more)
    keras_file(tmp_path / "a.h5", to_state_dict(model))
    found, metadata = load(tmp_path / "a.h5")
    assert metadata["model"]["name"].startswith(name)
    np.testing.assert_array_equal(logits(found), logits(model))
    save(tmp_path / "b.safetensors", found, metadata)
    np.testing.assert_array_equal(logits(load(tmp_path / "b.safetensors")[0]), logits(model))


def test_a_flax_tree_of_pokebnn_is_read_as_it_is(tmp_path):
    model = varied("pokebnn")
    flax_file(tmp_path / "a.msgpack", to_state_dict(model))
    found, metadata = load(tmp_path / "a.msgpack")
    assert metadata["model"]["name"] == "pokebnn"
    np.testing.assert_array_equal(logits(found), logits(model))


def test_a_file_of_another_network_is_refused_in_one_sentence(tmp_path):
    for name in ("birealnet18", "bnn18"):
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in to_state_dict(varied(name)).items()}, tmp_path / f"{name}.pth")
    with pytest.raises(UserError, match=r"birealnet18.pth holds birealnet18 \(10 classes\), not reactnet18"):
        load(tmp_path / "birealnet18.pth", "reactnet18")
    with pytest.raises(UserError, match=r"BNN-18, XNOR-Net-18 and a real-valued ResNet-18 share; say which it is with --model=bnn18"):
        load(tmp_path / "bnn18.pth")
    tensors = to_state_dict(varied("real_to_binary"))
    keras_file(tmp_path / "quicknet.h5", {key.replace("r2b_bnn_block", "quicknet"): value for key, value in tensors.items()})
    with pytest.raises(UserError, match="holds no network that is known here"):
        load(tmp_path / "quicknet.h5")


def test_the_order_of_xnornets_units_shows_in_its_file(tmp_path):
    model = varied("xnornet18", order="norm_conv")
    torch.save({key: torch.from_numpy(np.array(value)) for key, value in to_state_dict(model).items()}, tmp_path / "a.pth")
    found, metadata = load(tmp_path / "a.pth", "xnornet18")
    assert metadata["model"]["arguments"]["order"] == "norm_conv"
    np.testing.assert_array_equal(logits(found), logits(model))


@pytest.mark.parametrize(("name", "resized"), [("bnext_tiny", 235), ("reactnet_a", 256), ("meliusnet22", 256), ("pokebnn", 256)])
def test_images_for_1000_classes_are_scaled_as_published(name, resized):
    found = published(name, 1000)
    assert found["eval_transform"] == f"resize({resized})|center_crop(224)"
    assert found["mean"] == [0.485, 0.456, 0.406] and found["std"] == [0.229, 0.224, 0.225]


def test_a_pokebnn_whose_weights_are_still_real_is_not_written_as_a_pytorch_file(tmp_path):
    model = varied("pokebnn")
    model.quantized.set_value(jnp.asarray(False))
    with pytest.raises(UserError, match="real until epoch 2 of its training, and a PyTorch file cannot say so"):
        save(tmp_path / "a.safetensors", model)
    save(tmp_path / "run", model)
    assert not load(tmp_path / "run")[0].quantized[...] and not (tmp_path / "a.safetensors").exists()


def test_fine_tuning_a_pokebnn_may_change_its_schedule_but_not_its_widths(tmp_path):
    model = varied("pokebnn")
    save(tmp_path / "run", model)
    graphdef, params, rest = split(model, training=False)
    del graphdef
    told = {"name": "pokebnn", "num_classes": 10, "arguments": {**SMALL["pokebnn"], "quantized_from_epoch": 0}}
    found, _ = start_from(tmp_path / "run", told, params, rest)
    np.testing.assert_array_equal(found["classifier/kernel"], model.classifier.kernel[...])
    with pytest.raises(UserError, match=r"holds a network with depths"):
        start_from(tmp_path / "run", {**told, "arguments": {**told["arguments"], "depths": (1, 2, 1)}}, params, rest)


def test_what_a_file_does_not_tell_is_said(tmp_path, caplog):
    for name in ("reactnet_a", "xnornet18"):
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in to_state_dict(varied(name)).items()}, tmp_path / f"{name}.pth")
    load(tmp_path / "reactnet_a.pth")
    load(tmp_path / "xnornet18.pth", "xnornet18")
    assert "does not say the stride of its stem; assuming 1" in caplog.text
    assert "does not say whether its shortcuts are binary; assuming real ones, and units in the order conv_norm" in caplog.text


def test_a_file_of_reactnet_a_with_real_weights_shows_it_in_its_names(tmp_path, caplog):
    """As its authors' code writes it in the first step: `.weight`, with PyTorch's axes; the second step has columns `.weights`."""
    model = varied("reactnet_a", binary_weights=False)
    tensors = to_state_dict(model)
    names = [name for name in tensors if "binary_" in name]
    assert len(names) == 3 + 2 + 2 + 1 and all(name.endswith(".weight") and tensors[name].ndim == 4 for name in names)
    kernel = np.asarray(model.blocks[0].unit3x3.conv.kernel[...])
    np.testing.assert_array_equal(tensors["feature.1.binary_3x3.weight"], kernel.transpose(3, 2, 0, 1))
    torch.save({f"module.{key}": torch.from_numpy(np.array(value)) for key, value in tensors.items()}, tmp_path / "step1.pth")
    found, metadata = load(tmp_path / "step1.pth")
    assert metadata["model"]["arguments"]["binary_weights"] is False
    assert "step1.pth has the names of the first step of a training; assuming real weights" in caplog.text
    np.testing.assert_array_equal(logits(found), logits(model))


def test_a_file_of_reactnet_18_does_not_say_its_step_and_starts_the_second(tmp_path, caplog):
    model = varied("reactnet18", binary_weights=False)
    torch.save({key: torch.from_numpy(np.array(value)) for key, value in to_state_dict(model).items()}, tmp_path / "step1.pth")
    assert "binary_weights" not in load(tmp_path / "step1.pth")[1]["model"]["arguments"]
    assert "does not say whether its weights are real, as in the first stages of a training; assuming binary ones" in caplog.text
    told = {"name": "reactnet18", "num_classes": 10, "arguments": SMALL["reactnet18"]}
    _, params, rest = split(varied("reactnet18"), training=False)
    found, _ = start_from(tmp_path / "step1.pth", told, params, rest)
    np.testing.assert_array_equal(found["stages/0/0/unit/conv/kernel"], model.stages[0][0].unit.conv.kernel[...])
