"""Resampling and warps are compared with Pillow, on real photographs and in corner cases."""

import numpy as np
import pytest
from PIL import Image

from bnext_jax.data.augment import kernels
from tests.helpers import photographs

BICUBIC = Image.Resampling.BICUBIC
FILL = (124, 116, 104)
SMALL = [np.asarray(image.resize((97, 70), BICUBIC)) for image in photographs.images()]


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("box", [(30, 80, 318, 318), (0, 0, 375, 500), (10, 20, 120, 90), (100, 100, 30, 50), (374, 0, 1, 500)])
def test_a_resampled_crop_is_within_a_quarter_of_a_level_of_pillow(box):
    top, left, height, width = box
    for image in photographs.images():
        found = kernels.resample(np.asarray(image), *map(float, box), 224, 224)
        expected = image.crop((left, top, left + width, top + height)).resize((224, 224), BICUBIC)
        assert photographs.levels(found, expected) < 0.25


def test_antialiased_shrinking_turns_a_fine_checkerboard_gray():
    board = np.repeat((np.indices((400, 400)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None], 3, 2)
    found = kernels.resample(board, 0.0, 0.0, 400.0, 400.0, 100, 100)
    assert np.abs(found.astype(int) - 127.5).max() < 1


def test_the_same_size_copies_the_region_and_one_pixel_fills_the_output():
    image = noise(9, 12)
    np.testing.assert_array_equal(kernels.resample(image, 2.0, 3.0, 5.0, 7.0, 5, 7), image[2:7, 3:10])
    assert (kernels.resample(image[:1, :1].copy(), 0.0, 0.0, 1.0, 1.0, 8, 8) == image[0, 0]).all()


def test_only_pixels_of_the_region_are_used():
    image = noise(40, 40)
    changed = noise(40, 40) // 2
    changed[10:30, 5:25] = image[10:30, 5:25]
    box = (10.0, 5.0, 20.0, 20.0, 13, 17)
    np.testing.assert_array_equal(kernels.resample(image, *box), kernels.resample(changed, *box))


def pillow(image, matrix):
    return Image.fromarray(image).transform(image.shape[1::-1], Image.Transform.AFFINE, matrix, resample=BICUBIC, fillcolor=FILL)


@pytest.mark.parametrize("amount", [0.0, 0.13, -0.217, 0.3, 30.4, -7.25, 500.0])
@pytest.mark.parametrize("kind", ["shear", "offset"])
def test_rows_and_columns_are_shifted_as_by_pillow(kind, amount):
    shear, offset = (amount, 0.0) if kind == "shear" else (0.0, amount)
    fill = np.array(FILL, np.uint8)
    for image in SMALL:
        for function, matrix in (
            (kernels.shift_rows, (1, shear, offset, 0, 1, 0)),
            (kernels.shift_columns, (1, 0, 0, shear, 1, offset)),
        ):
            difference = np.abs(function(image, shear, offset, fill).astype(int) - np.asarray(pillow(image, matrix)))
            assert difference.max() <= 1 and difference.mean() < 0.02


@pytest.mark.parametrize("matrix", [(0.9, 0.3, -20.0, -0.3, 0.9, 40.0), (0.5, 0.0, 10.0, 0.0, 0.5, 10.0), (1.0, 0.0, 200.0, 0.0, 1.0, 0.0)])
def test_a_warp_is_within_two_levels_of_pillow(matrix):
    for image in SMALL:
        difference = np.abs(kernels.warp(image, *matrix, np.array(FILL, np.uint8)).astype(int) - np.asarray(pillow(image, matrix)))
        assert difference.max() <= 2 and difference.mean() < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 3)])
def test_images_of_a_few_pixels_are_warped_as_by_pillow(shape):
    image, fill = noise(*shape), np.array(FILL, np.uint8)
    for found, matrix in (
        (kernels.shift_rows(image, 0.2, 0.1, fill), (1, 0.2, 0.1, 0, 1, 0)),
        (kernels.shift_columns(image, 0.2, 0.1, fill), (1, 0, 0, 0.2, 1, 0.1)),
        (kernels.warp(image, 0.9, 0.11, 0.0, -0.13, 0.9, 0.12, fill), (0.9, 0.11, 0.0, -0.13, 0.9, 0.12)),
    ):
        assert np.abs(found.astype(int) - np.asarray(pillow(image, matrix))).max() <= 2
