"""Every kind of pixels has one reading, the same in training, evaluation and prediction, or is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from bnext_jax.commands.predict import read_photo
from bnext_jax.config import DataConfig
from bnext_jax.data import pipeline, splits
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.data.prepare import prepare
from bnext_jax.errors import UserError
from tests.helpers.photographs import encoded, png, tiff

WIDE = np.array([[0, 255, 256, 40_000, 65_535]], np.uint16)
COLORS = [(200, 10, 30), (10, 200, 30)]  # of a first and a second frame


def plain(mode, color):
    return Image.new(mode, (2, 1), color)


def frames(kind, **options):
    """A file of two images, in COLORS."""
    first, second = (Image.new("RGB", (16, 16), color) for color in COLORS)
    return encoded(first, kind, save_all=True, append_images=[second], **options)


def by_palette(**options):
    """A PNG with two pixels and a palette of COLORS. options: of Pillow's save."""
    image = Image.new("P", (2, 1))
    image.putpalette([level for color in COLORS for level in color])
    image.putdata([0, 1])
    return encoded(image, "png", **options)


# file -> its first row of pixels, written out: one number for a gray pixel, three for a color. 16 bits: the number // 256
KINDS = {
    "16-bit gray PNG": (encoded(Image.fromarray(WIDE), "png"), [0, 0, 1, 156, 255]),
    "16-bit gray TIFF": (encoded(Image.fromarray(WIDE), "tiff"), [0, 0, 1, 156, 255]),
    "16-bit gray TIFF with LZW": (encoded(Image.fromarray(WIDE), "tiff", compression="tiff_lzw"), [0, 0, 1, 156, 255]),
    "16-bit gray PGM": (b"P5 3 1 65535\n" + bytes([0, 255, 1, 0, 156, 64]), [0, 1, 156]),
    "12-bit gray PGM": (b"P5 2 1 4095\n" + bytes([15, 255, 0, 16]), [255, 1]),
    "12-bit gray TIFF": (tiff(2, 12, b"\xff\xf8\x00"), [255, 128]),
    "16-bit gray TIFF where 0 is white": (tiff(3, 16, b"\0\0\xff\xff\0\x01", white_is_zero=True), [255, 0, 254]),
    "8-bit gray TIFF where 0 is white": (tiff(2, 8, b"\0\xfe", white_is_zero=True), [255, 1]),
    "16-bit gray PNG with a transparent level": (png((2, 1, 16, 0), [b"\x9c\x40\0\0"], (b"tRNS", b"\0\0")), [156, 0]),
    "16-bit color PNG": (png((1, 1, 16, 2), [b"\xff\xff\x9c\x40\x01\0"]), [(255, 156, 1)]),
    "16-bit gray PNG with alpha": (png((1, 1, 16, 4), [b"\x9c\x40\x00\x00"]), [156]),
    "1-bit PNG": (png((2, 1, 1, 0), [b"\x40"]), [0, 255]),
    "1-bit PBM": (b"P4 2 1\n\x40", [255, 0]),
    "2-bit gray PNG": (png((4, 1, 2, 0), [b"\x1b"]), [0, 85, 170, 255]),
    "gray with alpha": (encoded(plain("LA", (77, 0)), "png"), [77, 77]),
    "color with alpha": (encoded(plain("RGBA", (1, 2, 3, 0)), "png"), [(1, 2, 3)] * 2),
    "WebP with alpha": (encoded(plain("RGBA", (1, 2, 3, 200)), "webp", lossless=True), [(1, 2, 3)] * 2),
    "palette": (by_palette(), COLORS),
    "palette with one transparent color": (by_palette(transparency=0), COLORS),
    "palette with alpha": (by_palette(transparency=bytes([0, 100])), COLORS),
    "color PNG with a transparent color": (png((1, 1, 8, 2), [b"\1\2\3"], (b"tRNS", b"\0\1\0\2\0\3")), [(1, 2, 3)]),
    "CMYK TIFF": (encoded(plain("CMYK", (0, 255, 255, 0)), "tiff"), [(255, 0, 0)] * 2),
    "YCbCr TIFF": (encoded(plain("YCbCr", (100, 128, 128)), "tiff"), [100, 100]),
    "animated GIF": (frames("gif"), COLORS[:1] * 16),
    "animated PNG": (frames("png"), COLORS[:1] * 16),
    "animated PNG with a still image": (frames("png", default_image=True), COLORS[:1] * 16),
    "animated WebP": (frames("webp", lossless=True), COLORS[:1] * 16),
    "TIFF with two pages": (frames("tiff"), COLORS[:1] * 16),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_pixels_has_its_written_reading(kind):
    data, expected = KINDS[kind]
    found = Photo(data).pixels()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], [color if isinstance(color, tuple) else (color,) * 3 for color in expected])


def test_a_phones_jpeg_with_two_pictures_is_the_first_of_them():
    data = frames("mpo", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert np.abs(Photo(data).pixels().astype(int) - COLORS[0]).max() <= 2


UNKNOWN = {
    "32-bit integers": (encoded(Image.fromarray(np.full((8, 8), 70_000, np.int32)), "tiff"), "whole numbers of more than 8 bits (mode I)"),
    "floating point": (encoded(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "tiff"), "floating-point numbers (mode F)"),
    "portable floats": (b"Pf 1 1 -1.0\n\0\0\0\0", "floating-point numbers (mode F)"),
    "signed 16 bits": (tiff(1, 16, b"\xff\xff", sample_format=2), "whole numbers of more than 8 bits (mode I)"),
    "signed 8 bits": (tiff(1, 8, b"\xff", sample_format=2), "signed numbers"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_pixels_of_an_unknown_range_are_undecodable_by_their_header(kind):
    data, why = UNKNOWN[kind]
    with pytest.raises(Undecodable) as caught:
        Photo(data)
    assert str(caught.value) == f"its pixels are {why}, and their range is unknown; save it with 8 bits per channel"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder of class folders: "good" has a file of each of KINDS, "bad" has a file of each of UNKNOWN. train and val are the same."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "train/good").mkdir(parents=True)
    (root / "train/bad").mkdir()
    (root / "val").symlink_to("train")
    for folder, kinds in (("good", KINDS), ("bad", UNKNOWN)):
        for name, (data, _) in kinds.items():
            (root / "train" / folder / f"{name}.png").write_bytes(data)  # under a wrong suffix: the bytes decide
    return root


def test_training_evaluation_and_prediction_read_alike_and_prepare_names_the_rest(mixed, tmp_path, caplog):
    data = DataConfig(name="mixed", directory=str(tmp_path), eval_split="validation")
    prepare(data, source=str(mixed))
    assert f"{len(UNKNOWN)} files of train cannot be read as images: 32-bit integers.png (its pixels are whole numbers" in caplog.text
    line, shape = "resize(16)|center_crop(16)", (16, 16, 3)
    train, validation = (splits.open_source(data, split) for split in ("train", "validation"))
    rows = range(len(train))
    trained = pipeline.TrainBatches(train, line, batch_size=len(train), epochs=1, rows=rows, seed=0)
    evaluated = pipeline.EvalBatches(validation, line, batch_size=len(validation), rows=rows)[0]
    seen = {}
    for row, file in enumerate(evaluated["file"]):
        if evaluated["undecodable"][row] < 0:
            expected = read_photo(mixed / file.decode().replace("val/", "train/"), Transform(line), shape)
            np.testing.assert_array_equal(evaluated["image"][row], expected)
            seen[file.decode().removeprefix("val/")] = expected
    assert len(seen) == len(KINDS) and all(name.startswith("good/") for name in seen)
    for index in rows:
        image, _, replaced = trained.example(index, 0)
        name = train.records[index]["file_name"].decode().removeprefix("train/")
        assert (replaced == index) == (name not in seen)
        if replaced < 0:
            np.testing.assert_array_equal(image, seen[name])
    for name in UNKNOWN:
        with pytest.raises(UserError, match=rf"{name}.png is not a readable image: its pixels are .*save it with 8 bits per channel$"):
            read_photo(mixed / "train/bad" / f"{name}.png", Transform(line), shape)
