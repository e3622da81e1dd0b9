"""Curves, feature maps and the comparison: the drawings against the logs, the arithmetic of the units and the published figures."""

import csv
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from bnext_jax.analysis import count
from bnext_jax.errors import UserError
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from bnext_jax.plot import comparison, curves, features
from tests.helpers.commands import refused
from tests.helpers.torch_tools import drawn, save_training

WIDTHS = (8, 8, 16, 16)


@pytest.fixture
def drawing(monkeypatch):
    """{"figure": the last saved figure}. The figure stays open, so that tests can inspect it."""
    kept = {}
    for module in (curves, comparison, features):
        save = module.save

        def keep(figure, path, save=save):
            figure.canvas.draw()
            kept["figure"] = figure
            return save(figure, path)

        monkeypatch.setattr(module, "save", keep)
    return kept


def logged(folder, epochs, factor):
    """A work directory with logs of invented values."""
    folder.mkdir()
    lines = [
        {"epoch": e, "train_loss": 2 / e, "train_top1": factor * e, "temperature": 0.9**e if e < epochs else 0, "learning_rate": 0.1 * e,
         "flip_ratio": 0.5 / e, "binary_share": 0.1 * e, **({"test_loss": 3 / e, "test_top1": factor * e - 1} if e % 2 else {})}
        for e in range(1, epochs + 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_curves_of_two_runs_show_the_values_of_their_logs(run, drawing, tmp_path):
    one, other = logged(tmp_path / "one", 6, 10), logged(tmp_path / "other", 4, 5)
    code, result, error = run("plot", "curves", one, other, f"--output={tmp_path / 'both.svg'}")
    assert code == 0, error
    assert (tmp_path / "both.svg").read_text().startswith("<?xml") and result == {"picture": str(tmp_path / "both.svg")}
    axes = {axis.get_title(loc="left"): axis for axis in drawing["figure"].axes}
    assert len(axes) == 6
    flips = axes["flip ratio (%)"].lines
    for line, epochs in zip(flips, (6, 4), strict=True):
        np.testing.assert_allclose(line.get_xydata(), [[e, 50 / e] for e in range(1, epochs + 1)])
    train, test, *_ = axes["top-1 (%)"].lines
    assert test.get_xydata().tolist() == [[1, 9], [3, 29], [5, 49]] and train.get_xydata()[-1].tolist() == [6, 60]
    temperatures = axes["temperature"].lines[0].get_xydata()
    assert axes["temperature"].get_yscale() == "log" and len(temperatures) == 5  # a log axis cannot show 0
    assert [text.get_text() for text in drawing["figure"].legends[0].get_texts()] == ["one", "other"]


def test_a_network_without_signs_and_temperature_has_no_empty_panels(drawing, tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 2, "train_top1": 50, "learning_rate": 0.1}\n')

    def titles(*folders):
        curves.curves(folders, tmp_path / "a.png")
        return [axis.get_title(loc="left") for axis in drawing["figure"].axes]

    assert titles(folder) == ["loss (nats)", "top-1 (%)", "learning rate"]
    assert len(titles(folder, logged(tmp_path / "binary", 3, 1))) == 6


def test_latent_weights_are_drawn_with_the_temperature_only_if_there_is_one(drawing, model, tmp_path):
    for temperature, title in ((0.25, "latent weights by layer, at temperature 0.25"), (None, "latent weights by layer")):
        features.weights(model, {"temperature": temperature}, tmp_path / "a.png")
        assert drawing["figure"].axes[0].get_title(loc="left") == title


def test_the_top1_axis_shows_every_run_and_every_teacher(drawing, tmp_path):
    for best, other, teachers, visible in ((96, 63, {}, 63), (96, 95, {"main": 99}, 95), (96, 95, {"main": 70}, 70)):
        folders = [logged(tmp_path / f"{best}{other}{len(teachers)}{visible}{top}", 1, top) for top in (best, other)]
        curves.curves(folders, tmp_path / "a.png", teachers=teachers)
        axis = next(axis for axis in drawing["figure"].axes if axis.get_title(loc="left") == "top-1 (%)")
        assert axis.get_ylim()[0] < visible - 1


def test_curves_need_logs_and_a_file_ending(run, tmp_path):
    refused(run("plot", "curves", f"--workdir={tmp_path}"), "holds no logs")
    refused(run("plot", "comparison", f"--workdir={tmp_path}"), "plot comparison takes no --workdir")
    refused(run("plot", "curves"), "needs --workdir=DIR, or work directories after its name")
    refused(run("plot", "curves", logged(tmp_path / "one", 3, 1), f"--output={tmp_path / 'a.gif'}"), "one of the endings .png, .svg, .pdf")


@pytest.fixture(scope="module")
def model():
    """A narrow network with nonzero shifts."""
    made = create_model("bnext", 10, widths=WIDTHS, rngs=nnx.Rngs(3))
    rng = np.random.default_rng(0)
    for block in made.blocks:
        for unit in (block.unit3x3, *block.units1x1):
            unit.shift[...] = jnp.asarray(rng.normal(0, 0.3, unit.shift.shape), jnp.float32)
    return made


def test_feature_maps_are_the_signs_before_each_units_binary_convolution(model):
    images = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 16, 3)), jnp.float32)
    found = features.signs(model, images, ["blocks/1/unit3x3", "blocks/0/unit3x3", "blocks/1/units1x1/1"])
    assert list(found) == ["blocks/0/unit3x3", "blocks/1/unit3x3", "blocks/1/units1x1/1"]
    x, _ = model.stem(images)
    np.testing.assert_array_equal(found["blocks/0/unit3x3"], np.sign(x + model.blocks[0].unit3x3.shift[...]))
    x = model.blocks[0](x, 1.0)
    np.testing.assert_array_equal(found["blocks/1/unit3x3"], np.sign(x + model.blocks[1].unit3x3.shift[...]))
    x = model.blocks[1].unit3x3(x, 1.0)
    np.testing.assert_array_equal(found["blocks/1/units1x1/1"], np.sign(x + model.blocks[1].units1x1[1].shift[...]))
    assert found["blocks/1/units1x1/1"].shape == (2, 8, 8, 8)


def test_channels_are_tiled_row_by_row_and_at_most_64_are_drawn():
    maps = np.stack([np.full((2, 2), value) for value in (1, -1, 0, 1, 1)], -1).astype(np.int8)
    picture = features.grid(maps)
    assert picture.shape == (2 * 3 + 1, 3 * 3 + 1, 3)  # three columns, two rows, one pixel between maps
    corners = [tuple(picture[top, left]) for top in (1, 4) for left in (1, 4, 7)]
    light, dark, red = features.POSITIVE, features.NEGATIVE, features.ZERO
    assert corners == [light, dark, red, light, light, features.GAP]
    assert features.grid(np.ones((4, 4, 100), np.int8)).shape == (8 * 5 + 1, 8 * 5 + 1, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "stride"),
    [("bnext_tiny", {}, 32), ("bnext18", {}, 32), ("bnext18", {"stem_stride": 1}, 8), ("bnext", {"widths": WIDTHS, "stem_stride": 1}, 2)],
)
def test_a_network_knows_its_total_stride(name, arguments, stride):
    from bnext_jax.models.table import abstract_model

    assert abstract_model(name, 1000, **arguments).total_stride == stride


def test_an_image_is_scaled_down_and_cropped_about_its_center():
    assert features.fitted(np.zeros((3000, 1500, 3), np.uint8), 32).shape == (1024, 512, 3)
    image = np.arange(70 * 40 * 3).reshape(70, 40, 3).astype(np.uint8)
    np.testing.assert_array_equal(features.fitted(image, 32), image[3:67, 4:36])
    assert features.fitted(np.zeros((1, 4000, 3), np.uint8), 1).shape == (1, 1024, 3)
    with pytest.raises(UserError, match="the image has 40x20 pixels, the network needs sides of 32 or more"):
        features.fitted(image[:20], 32)


def test_feature_maps_of_a_file_and_latent_weights_are_drawn_together(run, drawing, tmp_path):
    network = save_training(tmp_path / "a.pth.tar", drawn())
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    words = ["plot", "features", f"--checkpoint={network}", tmp_path / "photo.png", f"--output={tmp_path / 'maps.png'}"]
    code, result, error = run(*words, "--layers=blocks/1/unit3x3,blocks/2/units1x1/0")
    assert code == 0, error
    assert list(result["layers"]) == ["blocks/1/unit3x3", "blocks/2/units1x1/0"] and 0 < result["layers"]["blocks/1/unit3x3"] < 1
    assert result["weights"] == str(tmp_path / "maps_weights.png")
    for name in ("picture", "weights"):
        with Image.open(result[name]) as picture:
            assert picture.width > 500
    shares = drawing["figure"].axes[0].images[0].get_array()
    np.testing.assert_allclose(shares.sum(1), 100, rtol=1e-6)  # each of the seven rows covers all weights of one layer
    assert shares.shape[0] == 7

    refused(
        run(*words, "--layers=blocks/9/unit3x3"), "no binary unit blocks/9/unit3x3; the network has: blocks/0/unit3x3, blocks/0/units1x1/0"
    )
    (tmp_path / "photo.png").write_bytes(b"no image")
    refused(run(*words), "photo.png is not a readable image")
    refused(run(*words[:3]), "needs one image, got 0")
    refused(run("plot", "features", tmp_path / "photo.png"), "needs --checkpoint")


def test_a_network_without_binary_convolutions_has_no_feature_maps(run, tmp_path):
    from bnext_jax.io import checkpoint

    _, params, rest = split(create_model("convnext", 10, rngs=nnx.Rngs(0), widths=(8,), depths=(1,), patch=4), training=False)
    described = {"name": "convnext", "num_classes": 10, "arguments": {"widths": [8], "depths": [1], "patch": 4}}
    metadata = {"model": described, "step": 0, "epoch": 0, "temperature": 1.0, "preprocessing": None, "class_names": [], "config": None}
    checkpoint.save_network(tmp_path / "real", params, rest, metadata)
    refused(run("plot", "features", f"--checkpoint={tmp_path / 'real'}", "a.png"), "convnext, which has no binary convolutions")


def test_the_comparison_has_a_source_per_method_and_bnexts_published_figures():
    rows = {row["method"]: row for row in comparison.read_published()}
    with comparison.PUBLISHED.open() as file:
        assert all(row["source"] and row["top1"] for row in csv.DictReader(file))
    wanted = ["BNN", "XNOR-Net", "Bi-Real-18", "Real-to-Binary", "ReActNet-18", "ReActNet-A", "PokeBNN-2.0x"]
    assert all(name in rows for name in wanted) and any(name.startswith("MeliusNet") for name in rows)
    for name, published in zip(("BNext-T", "BNext-S", "BNext-L", "BNext-18"), ("tiny", "small", "large", "18"), strict=True):
        figures = count.PUBLISHED["bnext18" if published == "18" else f"bnext_{published}"]
        assert rows[name]["gops"] == figures.ops
        assert abs(rows[name]["megabytes"] - figures.mebibytes * 2**20 / 1e6) < 0.06
    assert [rows[name]["top1"] for name in ("BNext-T", "BNext-S", "BNext-M", "BNext-L", "BNext-18")] == [72.4, 76.1, 78.3, 80.57, 68.4]


def test_measured_speeds_become_a_third_panel(drawing, tmp_path):
    names = ("packed, C", "float, PyTorch", "float, PyTorch, channels_last", "float, bnext_jax")
    times = {"bnext_tiny": (8.0, 150.0, 160.0, 90.0), "bnext18": (6.0, 80.0, 70.0, 60.0)}
    networks = {
        model: {"milliseconds": {"1": {"1": {name: {"median": value, "best": 1.0} for name, value in zip(names, of, strict=True)}}}}
        for model, of in times.items()
    }
    (tmp_path / "packed.json").write_text(json.dumps({"machine": {"processor": "Some Processor"}, "networks": networks}))
    rows, processor = comparison.read_speeds(tmp_path)
    found = {(row["method"], row["family"]): (row["milliseconds"], row["top1"]) for row in rows}
    assert found == {
        ("BNext-T", "BNext"): (8.0, 72.4),
        ("BNext-T", "others"): (150.0, 72.4),  # PyTorch in the faster of its two layouts
        ("BNext-18", "BNext"): (6.0, 68.4),
        ("BNext-18", "others"): (70.0, 68.4),
    }
    assert processor == "Some Processor"
    comparison.comparison(tmp_path / "a.pdf", results=tmp_path)
    *_, right = drawing["figure"].axes
    assert len(drawing["figure"].axes) == 3 and "measured on one core of Some Processor" in right.get_xlabel()
    assert {text.get_text() for text in right.texts} == {"BNext-T", "BNext-18"}


def test_own_results_join_the_comparison_only_if_they_count_50000_images(drawing, tmp_path):
    results = {
        "ours": {"model": "bnext18", "arguments": {}, "top1": 67.0, "examples": 50_000},
        "few": {"model": "bnext18", "arguments": {}, "top1": 99.0, "examples": 360},
        "real": {"model": "convnext", "arguments": {"widths": [8], "depths": [1]}, "top1": 99.0, "examples": 50_000},
        "other": {"commit": "abc"},
    }
    for name, values in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    (row,) = comparison.read_own(tmp_path)
    # docs/spec.md, section 2: MACs of binary layers, stem, classifier, shortcuts and gates; size 5.426 MiB
    expected = (1_676_279_808 / 64 + 118_013_952 + 512_000 + 19_267_584 + 348_160) / 1e9
    assert (row["method"], row["top1"]) == ("ours", 67.0) and math.isclose(row["gops"], expected)
    assert round(row["megabytes"] * 1e6 / 2**20, 3) == 5.426
    comparison.comparison(tmp_path / "a.pdf", results=tmp_path)
    left, right = drawing["figure"].axes
    names = {text.get_text() for text in right.texts}
    assert {"ours", "PokeBNN-2.0x", "BNext-L"} <= names and "PokeBNN-2.0x" not in {text.get_text() for text in left.texts}
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken.json is not JSON"):
        comparison.read_own(tmp_path)
