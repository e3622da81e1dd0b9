"""Photos are turned by their EXIF data where the config says so, exactly as Pillow turns them; `predict` shows a network what it knows."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from bnext_jax.config import Config, DataConfig
from bnext_jax.config_json import changed_fields, from_json, to_json
from bnext_jax.data import splits, store
from bnext_jax.data.augment import kernels
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.decode.photo import Photo
from bnext_jax.errors import UserError
from bnext_jax.io import checkpoint
from tests.helpers import photographs
from tests.helpers.photographs import encoded, oriented

STANDARD = photographs.images(161, 123)[0]
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def behind_the_pixels(orientation):
    """A PNG whose EXIF data come after its pixels."""
    data = oriented(STANDARD, orientation, "png")
    begin = data.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(data[begin : begin + 4])
    last = data.index(b"IEND") - 4
    return data[:begin] + data[end:last] + data[begin:end] + data[last:]


def in_xmp_of_a_png(orientation):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", (XMP % orientation).decode())
    return encoded(STANDARD, "png", pnginfo=info)


KINDS = {
    "JPEG": lambda o: oriented(STANDARD, o),
    "progressive JPEG": lambda o: oriented(STANDARD, o, progressive=True),
    "gray JPEG": lambda o: oriented(STANDARD.convert("L"), o),
    "CMYK JPEG": lambda o: oriented(STANDARD.convert("CMYK"), o),
    "JPEG with XMP": lambda o: encoded(STANDARD, xmp=XMP % o),
    "PNG": lambda o: oriented(STANDARD, o, "png"),
    "PNG with EXIF behind its pixels": behind_the_pixels,
    "PNG with XMP": in_xmp_of_a_png,
    "WebP": lambda o: oriented(STANDARD, o, "webp"),
    "TIFF": lambda o: oriented(STANDARD, o, "tiff"),
    "TIFF with LZW": lambda o: oriented(STANDARD, o, "tiff", compression="tiff_lzw"),
    "TIFF with XMP": lambda o: encoded(STANDARD, "tiff", tiffinfo={700: XMP % o}),
}


def pillow(data, turn):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(turn(image).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_upright_photos_equal_pillows_exif_transpose_and_stored_ones_its_pixels(kind, orientation):
    data = KINDS[kind](orientation)
    for upright, expected in ((True, pillow(data, ImageOps.exif_transpose)), (False, pillow(data, lambda image: image))):
        photo = Photo(data, upright=upright)
        assert (photo.height, photo.width) == expected.shape[:2]
        np.testing.assert_array_equal(photo.pixels(), expected)
        line = "resize(70)|center_crop(64)"
        np.testing.assert_array_equal(Transform(line)(photo, None), Transform(line)(expected, None))
    assert photo.orientation == (1 if "TIFF" in kind else orientation)  # Pillow itself turns a TIFF, also as torchvision reads it


@pytest.mark.parametrize("orientation", range(1, 9))
def test_training_crops_are_cut_from_the_turned_image(orientation):
    large = photographs.images(500, 375)[1]
    for data in (oriented(large, orientation, quality=95), oriented(large, orientation, "png")):
        whole = Image.fromarray(pillow(data, ImageOps.exif_transpose))
        photo = Photo(data, upright=True)
        for top, left, height, width in ((0, 0, whole.height, whole.width), (31, 57, 200, 180), (100, 20, 64, 300)):
            box = (left, top, left + width, top + height)
            for side in (160, 32):  # at full size, and where a JPEG is decoded at a fraction of it
                region, *found = photo.region(top, left, height, width, out_height=side, out_width=side, fast=True)
                expected = whole.crop(box).resize((side, side), Image.Resampling.BICUBIC)
                assert photographs.levels(kernels.resample(region, *found, side, side), expected) < 1


def test_a_crop_of_a_turned_jpeg_decodes_only_the_crop():
    region, *box = Photo(oriented(STANDARD, 6), upright=True).region(30, 50, 41, 37, out_height=64, out_width=64, fast=True)
    assert region.shape == (41, 37, 3) and box == [0, 0, 41, 37] and region.flags.c_contiguous


BROKEN = {
    "random bytes": b"Exif\0\0" + bytes(range(200)),
    "no directory": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "cut off": Image.Exif.tobytes(Image.Exif()) + b"\x01",
    "nothing": b"Exif\0\0",
    "a number too large": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",
    "a text": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02\x36\0\0\0\0\0\0\0",
    "six numbers": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x06\0\0\0\x08\0\0\0\0",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_exif_data_never_make_a_photo_undecodable(kind):
    for form in ("jpeg", "png", "webp"):
        data = encoded(STANDARD, form, exif=BROKEN[kind])
        photo = Photo(data, upright=True)
        np.testing.assert_array_equal(photo.pixels(), pillow(encoded(STANDARD, form), lambda image: image))
        assert photo.orientation == 1


def test_a_split_is_turned_if_the_config_says_so(monkeypatch):
    record = {"image": oriented(STANDARD, 6), "label": 0}
    shapes = {}
    for orientation in ("stored", "upright"):
        source = splits.Source("birds", "train", [record], ("a",), upright=orientation == "upright")
        shapes[orientation] = source.example(0)[0].shape
    assert shapes == {"stored": (123, 161, 3), "upright": (161, 123, 3)}


def test_the_orientation_is_checked_and_fixed_and_old_configs_are_stored():
    with pytest.raises(UserError, match=r"config.data.orientation is 'sideways'; one of: stored, upright"):
        Config(data=DataConfig(orientation="sideways")).check()
    old = to_json(Config())
    del old["data"]["orientation"]
    assert from_json(old).data.orientation == "stored"
    changed = changed_fields(old, Config(data=DataConfig(orientation="upright")))
    assert changed == ["config.data.orientation (was 'stored', now 'upright')"]


@pytest.mark.parametrize(
    ("turned", "split", "expected"),
    [
        (None, "train", "upright"),  # a dataset of TFDS, or of an older version
        ({"train": 10, "validation": 0}, "train", "upright"),  # one in a hundred of 1000
        ({"train": 11, "validation": 0}, "train", "stored"),
        ({"train": 11, "validation": 0}, "train[:50%]", "stored"),
        ({"train": 11, "validation": 90}, "validation", "stored"),
        ({"train": 11, "validation": 0}, "train+validation", "upright"),  # 11 of 1100
    ],
)
def test_predict_keeps_photos_as_stored_only_for_networks_that_saw_turned_ones(tmp_path, turned, split, expected):
    where = tmp_path / "birds/1.0.0"
    where.mkdir(parents=True)
    (where / "features.json").write_text("{}")
    known = {"splits": {"train": 1000, "validation": 100}, "files": {}} | ({"turned": turned} if turned else {})
    (where / "prepared.json").write_text(json.dumps(known))
    data = DataConfig(name="birds", directory=str(tmp_path), train_split=split)
    assert store.orientation(data) == expected
    data.orientation = "upright"
    assert store.orientation(data) == "upright"


def test_a_run_on_turned_photos_has_a_network_that_predict_shows_stored_photos(run, tmp_path, caplog):
    for split, count in (("train", 7), ("val", 1)):
        for number, image in enumerate(photographs.images(40, 30) * 2):
            if number < 10:
                (tmp_path / split / str(number)).mkdir(parents=True)
                for copy in range(count):
                    (tmp_path / split / str(number) / f"{copy}.jpg").write_bytes(oriented(image, 6 if copy == 0 else 1))
    form, photo = "--config=configs/imagenet_bnext_tiny.py:smoke", tmp_path / "val/3/0.jpg"
    fields = [f"--config.data.{field}" for field in ("name=birds", f"directory={tmp_path}", "train_split=train", "eval_split=validation")]
    assert run("prepare", form, *fields, f"--source={tmp_path}")[0] == 0
    assert "10 of the 70 of train, 10 of the 10 of validation" in caplog.text
    assert run("train", form, *fields, f"--workdir={tmp_path / 'run'}")[0] == 0
    assert checkpoint.describe(tmp_path / "run")["preprocessing"]["orientation"] == "stored"
    assert run("predict", f"--checkpoint={tmp_path / 'run'}", photo)[0] == 0
    assert "0.jpg is not turned upright (EXIF orientation 6)" in caplog.text
