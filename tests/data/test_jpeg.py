"""Crops of JPEGs are compared with libjpeg-turbo. Damaged bytes must not break the decoder."""

import itertools
import random

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from bnext_jax.data.decode import jpeg, jpeg_codes
from tests.helpers import photographs

SIZES = [(1, 1), (7, 9), (16, 16), (17, 33), (161, 123)]
OPTIONS = [{}, {"optimize": True}, {"restart_marker_blocks": 1}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}]


def files(subsampling, qualities=(30, 75, 95, 100)):
    """Yields JPEGs of a photograph and of noise, in every size, quality and kind of coding."""
    noise = np.random.default_rng(1).integers(0, 256, (123, 161, 3), dtype=np.uint8)
    sources = [photographs.images(161, 123)[2], Image.fromarray(noise)]
    for source, size, quality, options in itertools.product(sources, SIZES, qualities, OPTIONS):
        yield photographs.encoded(source.resize(size), quality=quality, subsampling=subsampling, **options)


def rectangles(rng, height, width):
    """Yields (top, left, height, width) of the whole image and of two random parts."""
    yield 0, 0, height, width
    for _ in range(2):
        h, w = rng.randint(1, height), rng.randint(1, width)
        yield rng.randint(0, height - h), rng.randint(0, width - w), h, w


def layout_of(data):
    """Returns the Layout of a file's bytes, or None."""
    return jpeg.layout(jpeg.read_header(data))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_luma_of_any_rectangle_is_within_one_level_of_libjpeg_turbo(subsampling):
    rng, means = random.Random(3), []
    for data in files(subsampling):
        layout = layout_of(data)
        expected = simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0].astype(int)
        assert (layout.height, layout.width) == expected.shape
        for top, left, height, width in rectangles(rng, *expected.shape):
            plane, y, x = jpeg.planes(data, layout, top, left, height, width)[0]
            found = plane[top - y : top - y + height, left - x : left - x + width]
            difference = np.abs(found - expected[top : top + height, left : left + width])
            assert difference.max() <= 1
            means.append(difference.mean())
    assert len(means) == 600 and np.mean(means) < 0.05


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_colors_of_any_rectangle_are_within_five_levels_of_libjpeg_turbo(subsampling):
    rng, means = random.Random(4), []
    for data in files(subsampling):
        layout, expected = layout_of(data), simplejpeg.decode_jpeg(data).astype(int)
        for top, left, height, width in rectangles(rng, *expected.shape[:2]):
            difference = np.abs(jpeg.region(data, layout, top, left, height, width) - expected[top : top + height, left : left + width])
            assert difference.max() <= 5  # one level of luma, and two levels of chroma times 1.8
            means.append(difference.mean())
    assert np.mean(means) < 0.4


@pytest.mark.parametrize("sampling", ["440", "411"])
def test_rare_samplings_are_decoded_or_left_to_other_decoders(sampling):
    image = np.ascontiguousarray(np.asarray(photographs.images(161, 123)[0]))
    data = simplejpeg.encode_jpeg(image, quality=90, colorsubsampling=sampling)
    layout = layout_of(data)
    if sampling == "411":
        assert layout is None  # four luma pixels per chroma pixel, in a row
    else:
        assert layout.sampling == (1, 2)
        assert photographs.levels(jpeg.region(data, layout, 3, 5, 100, 90), simplejpeg.decode_jpeg(data)[3:103, 5:95]) < 0.5


def test_gray_photographs_decode_to_three_equal_channels():
    data = photographs.encoded(photographs.images(161, 123)[1].convert("L"), quality=90)
    found = jpeg.region(data, layout_of(data), 10, 20, 50, 60)
    expected = simplejpeg.decode_jpeg(data, colorspace="GRAY")[10:60, 20:80]
    assert np.abs(found.astype(int) - expected).max() <= 1 and (found == found[:, :, :1]).all()


def test_only_whole_blocks_around_the_rectangle_are_decoded():
    data = photographs.jpegs()[0]  # 500x375, chroma at half the resolution: blocks of 16x16 pixels
    (luma, top, left), (blue, y, x), _ = jpeg.planes(data, layout_of(data), 100, 201, 50, 60)
    assert (top, left, luma.shape) == (96, 192, (64, 80))  # covers rows 100..150 and columns 201..261 with a margin of 4 pixels
    assert (y, x, blue.shape) == (48, 96, (32, 40))


OTHERS = {
    "progressive": lambda image: photographs.encoded(image, progressive=True),
    "CMYK": lambda image: photographs.encoded(image.convert("CMYK")),
    "RGB without a change of colours": lambda image: photographs.encoded(image, keep_rgb=True),
    "PNG": lambda image: photographs.encoded(image, "png"),
    "nothing": lambda image: b"",
    "header alone": lambda image: photographs.encoded(image)[:200],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_other_than_plain_jpegs_are_left_to_other_decoders(kind):
    assert layout_of(OTHERS[kind](photographs.images(161, 123)[0])) is None


def test_truncated_data_are_refused_only_if_they_end_inside_the_rectangle():
    data = photographs.jpegs()[0]
    layout, cut = layout_of(data), data[: len(data) // 2]
    np.testing.assert_array_equal(jpeg.region(cut, layout, 0, 0, 60, 500), jpeg.region(data, layout, 0, 0, 60, 500))
    with pytest.raises(ValueError, match="broken"):
        jpeg.region(cut, layout, 0, 0, 375, 500)


def test_a_small_file_with_a_huge_size_in_its_header_is_refused():
    data = bytearray(photographs.encoded(photographs.images(161, 123)[0]))
    at = data.index((123).to_bytes(2) + (161).to_bytes(2))
    data[at : at + 4] = (60_000).to_bytes(2) * 2
    with pytest.raises(ValueError, match="end too early"):
        jpeg.region(bytes(data), layout_of(bytes(data)), 0, 0, 60_000, 60_000)  # the pixels would take 10.8 GB


def test_a_rectangle_outside_the_image_is_refused():
    data = photographs.jpegs()[0]
    for box in ((0, 0, 376, 500), (-1, 0, 5, 5), (0, 499, 1, 2), (3, 3, 0, 4)):
        with pytest.raises(ValueError, match="not inside"):
            jpeg.planes(data, layout_of(data), *box)


def broken(rng, data, start):
    """Returns damaged bytes: flipped bits, replaced, deleted, inserted or repeated bytes, in the header or after it."""
    data = bytearray(data)
    low, high = (2, start) if rng.random() < 0.4 else (start, len(data))
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at, kind = rng.randrange(low, high), rng.randrange(6)
        if kind == 0:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at % len(data)] = rng.choice((0, 255, 0xD0, 0xD9, rng.randrange(256)))
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 10, 100))]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 10, 100)))
        elif kind == 4:
            data[at : at + 8] = data[low : low + 8]
        elif rng.random() < 0.3:
            del data[at:]
        if len(data) < 20:
            break
    return bytes(data)


def test_damaged_bytes_give_pixels_or_a_value_error_and_nothing_else():
    rng, outcomes = random.Random(7), {"pixels": 0, "refused": 0, "left to others": 0}
    sources = [
        photographs.encoded(photographs.images(64, 48)[i].resize(size), quality=quality, subsampling=i % 3, **options)
        for i, (size, quality, options) in enumerate(itertools.product([(17, 33), (64, 48)], (40, 95), OPTIONS[:1] + OPTIONS[3:4]))
    ]
    for _ in range(4000):
        source = rng.choice(sources)
        data = broken(rng, source, layout_of(source).start)
        layout = layout_of(data)
        if layout is None:
            outcomes["left to others"] += 1
            continue
        height, width = rng.randint(1, min(layout.height, 2000)), rng.randint(1, min(layout.width, 2000))
        try:
            found = jpeg.region(data, layout, layout.height - height, layout.width - width, height, width)
            assert found.shape == (height, width, 3)
            outcomes["pixels"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 200, outcomes


def test_a_value_of_eight_bits_is_not_packed_with_a_second_symbol():
    """The index has room for a second symbol of one bit. But an entry keeps eight signed bits of the first value, which may reach 255."""
    # The only code has one bit. Its symbol means: no zeros, then a value of eight bits.
    counts, symbols = np.array([1, *[0] * 15], np.uint8), np.array([0x08], np.uint8)
    long, short, steps = np.zeros(1 << 16, np.uint16), np.zeros(1 << 10, np.uint32), np.zeros(1 << 11, np.uint32)
    assert jpeg_codes.build(counts, symbols, True, long, short, steps)
    index = 0b0_11001000_0  # the code, the value 200, the code again
    length_and_value, size, advance = 1 + 8, 8, 1
    assert short[index] == length_and_value | size << 8 | advance << 16
