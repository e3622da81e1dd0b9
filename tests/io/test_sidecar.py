"""The preprocessing of weights: from the flag, from timm's or transformers' JSON files beside them, from their checksum, or assumed."""

import json

import numpy as np
import pytest
from flax import nnx

from bnext_jax.data import preprocessing
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io import sidecar
from bnext_jax.io.load import load
from bnext_jax.io.save import save
from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.models.table import create_model
from tests.helpers.commands import refused
from tests.helpers.torch_tools import drawn, save_bare

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALVES = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
# as timm writes it for a hub; the sizes for training and tests differ
TIMM = {
    "architecture": "convnext_nano", "num_classes": 1000, "pretrained_cfg": {
        "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.95, "test_crop_pct": 1.0, "crop_mode": "center",
        "interpolation": "bicubic", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 11821,
    },
}  # fmt: skip
# as transformers writes it for a ConvNeXt
TRANSFORMERS = {
    "crop_pct": 0.875, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": IMAGENET[0], "image_std": IMAGENET[1],
    "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 224},
}  # fmt: skip


def weights(folder, classes=1000):
    """Saves a ConvNeXt of no published size, with random weights."""
    path = folder / "a.pth"
    if not path.exists():
        save_bare(path, to_state_dict(create_model("convnext", classes, widths=(8,), depths=(1,), rngs=nnx.Rngs(0))))
    return path


def seen(path, **more):
    """(mean, std, resized side, side, where it comes from) of a file."""
    metadata = load(path, **more)[1]
    found = metadata["preprocessing"]
    resized, side = (int(part.split("(")[1].rstrip(")")) for part in found["eval_transform"].split("|"))
    assert found["image_shape"] == [side, side, 3]
    return (found["mean"], found["std"]), resized, side, metadata["preprocessing_from"]


def without(content, *keys, **changes):
    return {key: value for key, value in (content | changes).items() if key not in keys}


OLD = {"architecture": "convnext_nano", "num_classes": 1000, "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}
SIDECARS = {
    "timm": ("config.json", TIMM, HALVES, 288, 288),
    "timm, one size": ("config.json", {**TIMM, "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.9}}, IMAGENET, 248, 224),
    "timm, in12k": ("config.json", {**TIMM, "pretrained_cfg": {"test_input_size": [3, 288, 288], "crop_pct": 0.95}}, IMAGENET, 303, 288),
    "timm, old": ("config.json", OLD, HALVES, 248, 224),
    "transformers": ("preprocessor_config.json", TRANSFORMERS, IMAGENET, 256, 224),
    "transformers, large": ("preprocessor_config.json", {**TRANSFORMERS, "size": {"shortest_edge": 384}}, IMAGENET, 384, 384),
    "transformers, old": ("preprocessor_config.json", without(TRANSFORMERS, "crop_pct", size=240), IMAGENET, 240, 240),
    "transformers, crop": (
        "preprocessor_config.json",
        without(TRANSFORMERS, "crop_pct", do_center_crop=True, crop_size={"height": 289, "width": 289}, size={"shortest_edge": 346}),
        IMAGENET, 346, 289,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SIDECARS)
def test_a_json_file_beside_the_weights_tells_their_preprocessing(tmp_path, caplog, case):
    name, content, scale, resized, side = SIDECARS[case]
    (tmp_path / name).write_text(json.dumps(content))
    assert seen(weights(tmp_path)) == (scale, resized, side, str(tmp_path / name))
    assert "does not say how its images were scaled" not in caplog.text
    assert ("here they are resized with bicubic" in caplog.text) == (case in ("transformers, large", "transformers, old"))


def test_without_any_word_the_assumption_is_told_and_a_foreign_json_file_is_not_one(tmp_path, caplog):
    (tmp_path / "config.json").write_text('{"learning_rate": 0.1, "model_type": "convnext"}')
    assert seen(weights(tmp_path)) == (IMAGENET, 235, 224, "assumed")
    assert "a.pth does not say how its images were scaled; assuming resize(235)|center_crop(224), mean [0.485" in caplog.text


BAD = {
    "no JSON": ("{", "says nothing usable of images"),
    "a list": ("[]", "it holds no JSON object"),
    "another network": (
        json.dumps({**TIMM, "architecture": "resnet50"}),
        "is about resnet50 with 1000 classes, but .* holds convnext with 1000",
    ),
    "other classes": (json.dumps({**TIMM, "num_classes": 21841}), "is about convnext_nano with 21841 classes, but .* with 1000"),
    "two means": (json.dumps({**OLD, "mean": [0.5, 0.5]}), "is not three numbers from 0 to 1"),
    "a mean of bytes": (json.dumps({**OLD, "mean": [123.7, 116.3, 103.5]}), "is not three numbers from 0 to 1, of pixels in .0, 1."),
    "no deviation": (json.dumps({**OLD, "std": 0}), "is not three numbers from 1e-06 to 1"),
    "NaN": ('{"architecture": "convnext_nano", "mean": NaN}', "is not three numbers"),
    "a text": (json.dumps({**OLD, "crop_pct": "0.9"}), "0.9 is not a number"),
    "a crop of percents": (json.dumps({**OLD, "crop_pct": 87.5}), "87.5 is not a share"),
    "an oblong image": (json.dumps({**OLD, "input_size": [3, 224, 192]}), "is not the size of a square image"),
    "one channel": (json.dumps({**OLD, "input_size": [1, 28, 28]}), "is not the size of a square image with three channels"),
    "no size": (json.dumps(without(TRANSFORMERS, "size")), "it lacks 'size'"),
    "no mean": (json.dumps(without(TRANSFORMERS, "image_mean")), "it lacks 'image_mean'"),
    "bytes": (json.dumps({**TRANSFORMERS, "do_rescale": False}), "it does not scale pixels by 1/255"),
    "a huge number": ('{"architecture": "convnext_nano", "mean": 1' + "0" * 400 + "}", "says nothing usable of images"),
    "deep": ("[" * 100_000, "says nothing usable of images"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_beside_the_weights_is_refused_and_a_flag_wins(tmp_path, case):
    text, message = BAD[case]
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load(weights(tmp_path))
    assert str(tmp_path / "config.json") in str(error.value) and "\n" not in str(error.value)
    given = sidecar.parsed("mean=0.5 std=0.25 input_size=3,240,240 crop_pct=0.75")
    assert seen(weights(tmp_path), given=given) == (([0.5] * 3, [0.25] * 3), 320, 240, "--preprocessing")


def test_a_flag_changes_what_it_names_and_keeps_the_rest(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SIDECARS["timm, one size"][1]))
    rest = f"--preprocessing; the rest: {tmp_path / 'config.json'}"
    for text, expected in {
        "mean=0.1,0.2,0.3": (([0.1, 0.2, 0.3], IMAGENET[1]), 248, 224, rest),
        "input_size=448": (IMAGENET, 496, 448, rest),
        "crop_pct=0.5 std=1": ((IMAGENET[0], [1.0] * 3), 448, 224, rest),
    }.items():
        assert seen(weights(tmp_path), given=sidecar.parsed(text)) == expected
    (tmp_path / "other.json").write_text(json.dumps(TIMM))
    assert seen(weights(tmp_path), given=sidecar.parsed(str(tmp_path / "other.json"))) == (HALVES, 288, 288, str(tmp_path / "other.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write a JSON file, or some of: mean=..., std="),
        ("means=0.5", "has no 'means'; did you mean mean?"),
        ("mean=half", "'mean=half' has no numbers"),
        ("mean=128", "is not three numbers from 0 to 1"),
        ("input_size=0", "is not the size of a square image"),
        ("crop_pct=1.2", "1.2 is not a share"),
        ("none.json", "none.json cannot be read: No such file"),
    ],
)
def test_a_wrong_flag_is_refused(run, text, message):
    refused(run("predict", "--checkpoint=x.pth", f"--preprocessing={text}", "a.jpg"), message)


def test_a_checksum_tells_the_preprocessing_and_a_json_file_the_padding(tmp_path, caplog):
    packaged = roster.packaged("tf_efficientnet_lite0")
    assert seen(packaged) == (HALVES, 256, 224, "the checksum of the weights")
    model = load(packaged)[0]
    (tmp_path / "config.json").write_text(json.dumps({**OLD, "architecture": "tf_efficientnet_lite0"}))
    path = save_bare(tmp_path / "a.pth", to_state_dict(model))
    assert seen(path) == (HALVES, 248, 224, str(tmp_path / "config.json"))
    assert not caplog.text
    (tmp_path / "config.json").write_text(json.dumps({**OLD, "architecture": "efficientnet_lite0"}))
    with pytest.raises(UserError, match=r"is about efficientnet_lite0 with 1000 classes, but .* holds tf_efficientnet_lite0"):
        load(path)


def test_our_own_files_keep_the_preprocessing_and_where_it_comes_from(tmp_path):
    model, metadata = load(weights(tmp_path), given=sidecar.parsed("mean=0.5 std=0.25 input_size=64 crop_pct=1"))
    for name in ("b.pth.tar", "b.ckpt", "b.safetensors", "flax"):
        save(tmp_path / name, model, metadata)
        assert seen(tmp_path / name) == (([0.5] * 3, [0.25] * 3), 64, 64, "--preprocessing"), name
    save(tmp_path / "wrong.safetensors", model, {**metadata, "preprocessing": {"mean": 3}})
    with pytest.raises(UserError, match=r"wrong.safetensors describes its preprocessing wrongly"):
        load(tmp_path / "wrong.safetensors")


def test_predict_convert_and_evaluate_say_what_they_used(run, digits, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((64, 80, 3), 200, np.uint8)).save(tmp_path / "a.png")
    source = save_bare(tmp_path / "bnext.pth", drawn())
    used = {"mean": [0.5] * 3, "std": [0.25] * 3, "eval_transform": "resize(40)|center_crop(32)", "image_shape": [32, 32, 3]}
    flag = "--preprocessing=mean=0.5 std=0.25 input_size=32 crop_pct=0.8"
    result = run("predict", f"--checkpoint={source}", tmp_path / "a.png")[1]
    assert result["preprocessing"] == {**preprocessing.CIFAR, "from": "assumed"}
    assert run("predict", f"--checkpoint={source}", flag, tmp_path / "a.png")[1]["preprocessing"] == {**used, "from": "--preprocessing"}
    assert run("convert", f"--source={source}", f"--output={tmp_path / 'plain'}")[1]["preprocessing"] is None
    result = run("convert", f"--source={source}", f"--output={tmp_path / 'flax'}", flag)[1]
    assert result["preprocessing"] == {**used, "from": "--preprocessing"}
    assert run("predict", f"--checkpoint={tmp_path / 'flax'}", tmp_path / "a.png")[1]["preprocessing"] == result["preprocessing"]
    words = ["--config=configs/digits_student.py:smoke", f"--config.data.directory={digits}"]
    losses = {}
    for name, more in {"config": [], "scale": ["--preprocessing=mean=0.125"], "size": ["--preprocessing=input_size=8"]}.items():
        code, result, error = run("evaluate", f"--checkpoint={source}", *words, *more)
        assert code == 0, error
        losses[name] = (result["loss"], result["preprocessing"])
    assert losses["config"][1]["from"] == "the configuration"
    assert losses["scale"][1]["from"] == "--preprocessing; the rest: the configuration; eval_transform: the configuration"
    assert (losses["scale"][1]["mean"], losses["scale"][1]["std"]) == ([0.125] * 3, losses["config"][1]["std"])
    assert losses["size"][1]["eval_transform"] == "resize(8)|center_crop(8)" != losses["scale"][1]["eval_transform"]
    assert losses["scale"][0] != losses["config"][0]
