"""`recognise` finds the network from the names and shapes of tensors, and refuses files that only look similar."""

import json

import numpy as np
import pytest
from flax import nnx

from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io.names.recognise import recognise, timm_names
from bnext_jax.io.torch import torch_files
from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.models.table import MODELS, create_model
from tests.helpers import golden_files


def shapes(path):
    """Returns ({PyTorch name: array}, meta) of a golden file. The arrays have only a shape: broadcasts of one zero."""
    arrays, meta = golden_files.read(path)
    pairs = zip(map(str, arrays["names"]), arrays["shapes"], strict=True)
    return {name: np.broadcast_to(np.float32(0), json.loads(str(shape))) for name, shape in pairs}, meta


@pytest.mark.parametrize("path", golden_files.files("models"), ids=lambda path: path.stem)
def test_each_bnext_of_the_reference_is_recognized_by_its_shapes(path):
    tensors, meta = shapes(path)
    name, classes, arguments = recognise(tensors)
    assert name == ("bnext18" if meta["size"] == "18" else f"bnext_{meta['size']}") and classes == meta["num_classes"]
    switched_off = {key: False for key in ("elm_attention", "info_recoupling") if not meta.get(key, True)}
    assert arguments == switched_off


@pytest.mark.parametrize("path", golden_files.files("teachers"), ids=lambda path: path.stem)
def test_each_teacher_is_recognized_by_its_shapes(path):
    tensors = shapes(path)[0]
    if path.stem == "resnet18":  # its names are those of binary networks too
        with pytest.raises(UserError, match="say which it is with --model=bnn18, --model=xnornet18 or --model=resnet18"):
            recognise(tensors)
    assert recognise(tensors, path.stem) == (path.stem, 1000, {})
    assert path.stem == "resnet18" or recognise(tensors, "bnn18") == (path.stem, 1000, {})


def test_other_widths_and_depths_are_recognized():
    for name, arguments in (
        ("bnext", {"widths": (8, 16, 16, 32)}),
        ("bnext", {"widths": (8, 8, 16), "elm_attention": False}),
        ("convnext", {"widths": (8, 16), "depths": (1, 2)}),
        ("convnext", {"widths": (8, 16), "depths": (1, 1), "patch": 2}),
    ):
        model = create_model(name, 7, rngs=nnx.Rngs(0), **arguments)
        assert recognise(to_state_dict(model)) == (name, 7, arguments)


def test_the_lite0_package_has_other_names_for_the_same_tensors():
    file = torch_files.read(roster.packaged("tf_efficientnet_lite0"))
    renamed = timm_names(file.tensors)
    golden, _ = shapes(golden_files.OWN / "teachers/tf_efficientnet_lite0.npz")
    assert "_blocks.15._project_conv.weight" in file.tensors
    assert {name: array.shape for name, array in renamed.items()} == {name: array.shape for name, array in golden.items()}


def test_blocks_that_lite0_does_not_have_keep_their_names():
    strange = ["_blocks.16._bn0.weight", "_blocks.x._bn0.weight", "_blocks.3", "_blocks"]
    names = list(timm_names(dict.fromkeys(["_conv_stem.weight", "_blocks.0._bn1.bias", *strange])))
    assert names == ["conv_stem.weight", "blocks.0.0.bn1.bias", *strange]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv1.weight", "encoder.0.conv1.weight"], "no network that is known here .it starts with conv1.weight, encoder.0"),
        (
            ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight", "fc.weight"],
            "names of a ResNet-18, which BNN-18, XNOR-Net-18 and a real-valued ResNet-18 share",
        ),
        (["conv1.weight", "layer1.0.conv1.weight"], "looks like ResNet but lacks 'fc.weight'"),
        (["feature.0.conv1.weight", "feature.1.FFN.scale"], "looks like BNext but lacks 'feature.1.FFN_3x3"),
        (["conv_stem.weight"], "looks like EfficientNet but lacks 'conv_head.weight'"),
    ],
)
def test_other_networks_are_refused_with_the_reason(names, message):
    with pytest.raises(UserError, match=message):
        recognise({name: np.zeros((8, 8, 3, 3), np.float32) for name in names})


def test_the_roster_names_existing_models_and_students_have_known_teachers():
    assert {teacher.model for teacher in roster.ROSTER.values()} <= MODELS.keys()
    for tag, teacher in roster.ROSTER.items():
        assert tag.split(".")[0] == teacher.model
        assert teacher.sha256 == "" or teacher.sha256 in teacher.release  # the release's file name contains the checksum
    assert roster.PUBLISHED_TEACHERS["bnext_large"] == (
        ("efficientnet_b0.ra_in1k", "efficientnet_b4.ra2_in1k", "convnext_tiny.fb_in1k"),
        "convnext_tiny.fb_in1k",
    )
    assert all(tag in roster.ROSTER for assistants, main in roster.PUBLISHED_TEACHERS.values() for tag in (*assistants, main))
