"""Photo decodes every kind of file to Pillow's pixels, decodes only the part that a crop needs, and says why a file is undecodable."""

import io

import numpy as np
import pytest
from PIL import Image

from bnext_jax.data.augment import kernels
from bnext_jax.data.decode import photo
from bnext_jax.data.decode.photo import Photo, Undecodable
from tests.helpers import photographs

STANDARD = photographs.images(161, 123)[0]


def pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


KINDS = {
    "4:2:0": {"quality": 90},
    "4:2:2": {"quality": 90, "subsampling": 1},
    "4:4:4": {"quality": 95, "subsampling": 0},
    "progressive": {"quality": 80, "progressive": True},
    "optimised tables": {"quality": 60, "optimize": True},
    "restart markers": {"quality": 75, "restart_marker_blocks": 3},
    "comment with an end marker in it": {"quality": 75, "comment": b"abc\xff\xd9\xff\xd8def"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_jpegs_of_every_kind_equal_pillow_to_the_last_bit(kind):
    for image in (STANDARD, STANDARD.resize((1, 1)), STANDARD.resize((17, 33)), STANDARD.convert("L")):
        data = photographs.encoded(image, **KINDS[kind])
        found = Photo(data)
        assert (found.width, found.height) == image.size
        np.testing.assert_array_equal(found.pixels(), pillow(data))


OTHERS = {
    "PNG under a JPEG's name": lambda: photographs.encoded(STANDARD, "png"),
    "CMYK": lambda: photographs.encoded(STANDARD.convert("CMYK"), quality=95),
    "grey": lambda: photographs.encoded(STANDARD.convert("L"), quality=95),
    "palette": lambda: photographs.encoded(STANDARD.convert("P"), "png"),
    "transparency": lambda: photographs.encoded(STANDARD.convert("RGBA"), "png"),
    "one pixel": lambda: photographs.encoded(STANDARD.resize((1, 1))),
    "WebP": lambda: photographs.encoded(STANDARD, "webp"),
    "zeros behind the end": lambda: photographs.encoded(STANDARD) + b"\0" * 40,
    "text behind the end": lambda: photographs.encoded(STANDARD) + b"camera maker's notes" * 9,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_images_of_other_kinds_are_decoded_as_by_pillow(kind):
    data = OTHERS[kind]()
    found = Photo(data).pixels()
    assert found.dtype == np.uint8 and found.shape[2] == 3
    np.testing.assert_array_equal(found, pillow(data))


def test_cmyk_photographs_keep_their_colors():
    colour = STANDARD.resize((40, 40)).convert("CMYK")
    found = Photo(photographs.encoded(colour, quality=100, subsampling=0)).pixels()
    assert photographs.levels(found, colour.convert("RGB")) < 4


DAMAGED = {
    "nothing": b"",
    "text": b"no pixels here",
    "truncated JPEG": photographs.encoded(STANDARD)[:2000],
    "truncated by its last tenth": photographs.jpegs()[0][: int(0.9 * len(photographs.jpegs()[0]))],
    "truncated PNG": photographs.encoded(STANDARD, "png")[:2000],
    "JPEG's first bytes alone": b"\xff\xd8\xff\xe0",
    "header without an image": photographs.encoded(STANDARD)[:300] + b"\xff\xd9",
    "12 bits": photographs.encoded(STANDARD).replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_raise_undecodable_with_a_reason(kind):
    with pytest.raises(Undecodable, match=r"\w"):
        Photo(DAMAGED[kind]).pixels()


def test_damaged_bytes_give_pixels_or_undecodable_and_nothing_else():
    rng, outcomes = np.random.default_rng(0), {True: 0, False: 0}
    for quality, kind in ((75, {}), (75, {"progressive": True}), (90, {"subsampling": 0})):
        data = np.frombuffer(photographs.encoded(STANDARD, quality=quality, **kind), np.uint8)
        for _ in range(150):
            broken = data.copy()
            broken[rng.integers(0, len(data), rng.integers(1, 9))] = rng.integers(0, 256)
            broken = broken[: rng.integers(20, len(data))] if rng.random() < 0.3 else broken
            try:
                image = Photo(broken.tobytes())
                region, *box = image.region(0, 0, image.height // 2 + 1, image.width, out_height=9, out_width=9, fast=True)
                kernels.resample(region, *box, 9, 9)
                outcomes[True] += 1
            except Undecodable:
                outcomes[False] += 1
    assert min(outcomes.values()) > 20


def huge_jpeg(side, *, progressive=False):
    """Returns a gray JPEG of `side` x `side` pixels. It is small (4.7 MB for a side of 20,000), because all pixels are equal."""
    image = Image.new("L", (side, side), 90)
    return photographs.encoded(image, quality=50, progressive=progressive)


def test_a_jpeg_of_20000_pixels_a_side_is_decoded_at_a_fraction_of_its_size(monkeypatch):
    data = huge_jpeg(20_000)
    image = Photo(data)
    assert (image.height, image.width) == (20_000, 20_000)
    for fast in (True, False):
        found, top, left, height, width = image.region(0, 0, 20_000, 20_000, out_height=224, out_width=224, fast=fast)
        assert max(found.shape[:2]) in (2_500, 10_000) and found.nbytes < photo.WORK_BYTES
        assert (top, left, height, width) == (0, 0, *found.shape[:2]) and (found == 90).all()
    with pytest.raises(Undecodable, match=r"decoding its 20000x20000 pixels would take 1.1 GiB, more than 1"):
        image.pixels()


def png_bomb(side):
    """Returns a PNG of less than 100 bytes; its header claims side x side pixels."""
    return photographs.png((side, side, 8, 2), [b"\0" * 999])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [13_000, 60_000])
def test_an_image_that_would_exhaust_memory_is_refused_before_it_is_decoded(side):
    with pytest.raises(Undecodable, match=r"would take 1\.1 GiB, more than 1|decompression bomb"):
        Photo(png_bomb(side)).pixels()


def test_the_memory_limit_counts_the_coefficients_of_progressive_jpegs():
    header = bytearray(photographs.encoded(STANDARD, progressive=True))
    at = header.index((123).to_bytes(2) + (161).to_bytes(2))
    header[at : at + 4] = (20_000).to_bytes(2) * 2
    with pytest.raises(Undecodable, match=r"decoding its 20000x20000 pixels would take"):
        Photo(bytes(header)).region(0, 0, 20_000, 20_000, out_height=224, out_width=224, fast=True)


@pytest.mark.parametrize("size", [(500, 375), (1000, 750), (1600, 1200)])
def test_fast_crops_of_real_photographs_stay_within_one_level_of_pillow_on_average(size):
    differences = []
    for data, image in zip(photographs.jpegs(*size), photographs.images(*size), strict=True):
        whole = Image.fromarray(pillow(data))
        for share, left, top in ((1.0, 0, 0), (0.7, 3, 5), (0.55, 40, 17), (0.35, 100, 60)):
            width, height = int(image.width * share) - left, int(image.height * share) - top
            region, *box = Photo(data).region(top, left, height, width, out_height=224, out_width=224, fast=True)
            found = kernels.resample(region, *box, 224, 224)
            expected = whole.crop((left, top, left + width, top + height)).resize((224, 224), Image.Resampling.BICUBIC)
            differences.append(photographs.levels(found, expected))
    assert np.mean(differences) < 0.6 and max(differences) < 1


def test_a_scaled_decode_is_used_only_where_enough_pixels_remain():
    data = photographs.jpegs(1600, 1200)[0]
    found = {}
    for side in (330, 671, 672, 1200):
        region, top, left, height, width = Photo(data).region(0, 0, side, side, out_height=224, out_width=224, fast=True)
        assert (top, left, height) == (0, 0, width) and min(region.shape[:2]) >= height
        found[side] = height
    assert found == {330: 330, 671: 671, 672: 336, 1200: 600}  # 672 = 2 * 1.5 * 224


def test_a_fast_crop_decodes_only_the_crop():
    region, *box = Photo(photographs.jpegs()[0]).region(30, 80, 101, 99, out_height=224, out_width=224, fast=True)
    assert region.shape == (101, 99, 3) and box == [0, 0, 101, 99]
