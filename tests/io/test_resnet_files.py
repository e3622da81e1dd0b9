"""ResNets in files with torchvision's names: conversion both ways, which network it is, and the preprocessing of known weights."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.names.rules import entries
from bnext_jax.models.table import abstract_model
from tests.helpers import golden_files
from tests.helpers.commands import refused
from tests.helpers.torch_tools import save_bare

NARROW = (4, 4, 8, 8)
# (depths, bottleneck, name that a file shows, arguments that it shows beside the widths, words that are needed to tell the network)
KINDS = [
    ((2, 2, 2, 2), False, "resnet18", {}, ["--model=resnet18"]),
    ((3, 4, 6, 3), False, "resnet34", {}, []),
    ((3, 4, 6, 3), True, "resnet50", {}, []),
    ((1, 2, 1, 1), False, "resnet", {"depths": [1, 2, 1, 1], "bottleneck": False}, []),
    ((1, 1, 1, 1), False, "resnet", {"depths": [1, 1, 1, 1], "bottleneck": False}, ["--model=resnet"]),
    ((2, 2, 2, 2), True, "resnet", {"depths": [2, 2, 2, 2], "bottleneck": True}, []),
]


def tensors(classes=10, widths=NARROW, **arguments):
    """{torchvision's name: array} of a narrow ResNet with drawn values."""
    model = abstract_model("resnet", classes, widths=widths, **arguments)
    shapes = {entry.name: entry for entry in entries(model)}
    layouts = {"conv": lambda s: (s[3], s[2], s[0], s[1]), "linear": lambda s: s[::-1]}
    return {name: golden_files.draw(name, layouts.get(entry.layout, tuple)(entry.shape), 7, 1.0) for name, entry in shapes.items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_names_and_shapes_are_those_of_timm_in_its_order(name):
    arrays, _ = golden_files.read(golden_files.OWN / f"teachers/{name}.npz")
    assert [entry.name for entry in entries(abstract_model(name))] == list(map(str, arrays["names"]))


@pytest.mark.parametrize(("depths", "bottleneck", "name", "shown", "words"), KINDS, ids=lambda value: str(value))
def test_conversion_both_ways_changes_nothing(run, tmp_path, depths, bottleneck, name, shown, words):
    given = tensors(depths=depths, bottleneck=bottleneck)
    source = save_bare(tmp_path / "a.pth", given)
    if words:
        refused(run("convert", f"--source={source}", f"--output={tmp_path / 'x'}"), "or --model=resnet18 (of convert)")
    code, result, error = run("convert", f"--source={source}", f"--output={tmp_path / 'flax'}", *words)
    assert (code, result["model"]) == (0, name), error
    assert result["arguments"] == {**shown, "widths": list(NARROW)}
    for output in ("b.safetensors", "c.pth"):
        assert run("convert", f"--source={tmp_path / 'flax'}", f"--output={tmp_path / output}")[0] == 0
    states = {"b": load_file(tmp_path / "b.safetensors"), "c": torch.load(tmp_path / "c.pth", weights_only=True)}
    assert list(states["c"]) == list(given)
    for state in states.values():
        assert state.keys() == given.keys()
        for key, value in given.items():
            np.testing.assert_array_equal(np.asarray(state[key]), value, err_msg=key)
    assert load(tmp_path / "b.safetensors")[1]["model"]["name"] == name  # the file describes itself


def test_only_a_file_whose_stages_are_alike_may_be_a_bnn(tmp_path):
    path = save_bare(tmp_path / "a.pth", tensors(depths=(3, 4, 6, 3)))
    with pytest.raises(UserError, match=r"a.pth holds resnet34 \(10 classes\), not bnn18; use --model=resnet34"):
        load(path, "bnn18")
    path = save_bare(tmp_path / "b.pth", tensors(depths=(2, 2, 2, 2)))
    for expected, found in (("bnn18", "bnn18"), ("xnornet18", "xnornet18"), ("resnet18", "resnet18")):
        assert load(path, expected)[1]["model"]["name"] == found
    with pytest.raises(UserError, match=r"b.pth holds resnet18 \(10 classes\), not resnet34"):
        load(path, "resnet34")


def test_relatives_of_resnet_are_refused_with_the_tensor_that_differs(tmp_path):
    given = tensors(depths=(1, 2), widths=(4, 8))
    deep = {("conv1.0.weight" if key == "conv1.weight" else key): value for key, value in given.items()}
    with pytest.raises(UserError, match=r"looks like ResNet but lacks 'conv1.weight'"):
        load(save_bare(tmp_path / "deep.pth", deep))
    with pytest.raises(UserError, match=r"looks like resnet with 10 classes, but: .*layer1.0.se.fc1.weight"):
        load(save_bare(tmp_path / "se.pth", {**given, "layer1.0.se.fc1.weight": np.ones((1, 4, 1, 1), np.float32)}))


def test_a_stem_of_seven_pixels_with_few_classes_gives_a_warning_about_its_pool(tmp_path, caplog):
    load(save_bare(tmp_path / "a.pth", tensors(depths=(1, 2), widths=(4, 8), stem_stride=2)))
    assert "does not say whether its stem has a max pool; assuming that it has one" in caplog.text
    caplog.clear()
    load(save_bare(tmp_path / "b.pth", tensors(depths=(1, 2), widths=(4, 8))))
    assert "max pool" not in caplog.text


@pytest.mark.parametrize(
    ("tag", "line", "size"),
    [
        ("resnet18.tv_in1k", "resize(256)|center_crop(224)", 224),
        ("resnet18.a1_in1k", "resize(288)|center_crop(288)", 288),
        ("resnet50.tv2_in1k", "resize(232)|center_crop(224)", 224),
    ],
)
def test_a_known_checksum_tells_the_network_and_the_preprocessing_of_its_own_tag(tmp_path, monkeypatch, caplog, tag, line, size):
    path = save_bare(tmp_path / "a.pth", tensors(1000, depths=(2, 2, 2, 2) if "18" in tag else (3, 4, 6, 3), bottleneck="50" in tag))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(roster.ROSTER, tag, dataclasses.replace(roster.ROSTER[tag], sha256=checksum[:8]))
    found = load(path)[1]
    assert found["model"]["name"] == roster.ROSTER[tag].model and found["preprocessing_from"] == "the checksum of the weights"
    assert (found["preprocessing"]["eval_transform"], found["preprocessing"]["image_shape"]) == (line, [size, size, 3])
    assert "assuming" not in caplog.text
    if "18" in tag:
        older = dataclasses.replace(roster.ROSTER[tag], sha256="0" * 8, also=("1" * 8, checksum[:8]))  # an earlier release of the weights
        monkeypatch.setitem(roster.ROSTER, tag, older)
        assert load(path)[1]["preprocessing"] == found["preprocessing"]
        with pytest.raises(UserError, match=r"a.pth holds resnet18 \(1000 classes\), not bnn18"):
            load(path, "bnn18")


def test_a_checksum_beside_a_file_does_not_tell_which_of_several_tags_it_has(tmp_path, caplog):
    path = save_bare(tmp_path / "a.pth", tensors(1000, depths=(3, 4, 6, 3)))
    (tmp_path / "a.pth.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  a.pth\n")
    found = load(path)[1]
    assert found["preprocessing_from"] == "assumed" and found["preprocessing"]["eval_transform"] == "resize(256)|center_crop(224)"
    assert "a.pth does not say how its images were scaled; assuming resize(256)|center_crop(224)" in caplog.text


def test_converting_a_tag_keeps_the_preprocessing_of_that_tag(run, tmp_path, monkeypatch):
    monkeypatch.setattr(roster, "fetch", lambda tag, target: save_safe(target, tensors(1000, depths=(2, 2, 2, 2))))
    code, result, error = run("convert", "--source=resnet18.a1_in1k", f"--output={tmp_path / 'flax'}")
    assert (code, result["model"]) == (0, "resnet18"), error
    assert result["preprocessing"]["eval_transform"] == "resize(288)|center_crop(288)"
    assert load(tmp_path / "flax")[1]["preprocessing"]["image_shape"] == [288, 288, 3]


def save_safe(path, state):
    """Writes a safetensors file that says nothing of itself, as the hub's do, and its checksum beside it."""
    from safetensors.numpy import save_file

    save_file({key: np.asarray(value) for key, value in state.items()}, path)
    with open(path, "rb") as file, open(f"{path}.sha256", "w") as beside:
        beside.write(f"{hashlib.sha256(file.read()).hexdigest()}  {path}\n")
