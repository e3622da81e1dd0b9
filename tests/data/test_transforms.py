"""Transforms: crops follow their distribution, evaluation equals the reference output, and wrong lines are refused."""

import math
import random

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from bnext_jax.data.augment import transforms
from bnext_jax.data.augment.transforms import Transform, draw_box
from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.errors import UserError
from tests.helpers import photographs
from tests.helpers.golden_files import FOLDER, read

CONFIDENCE = 0.001  # significance level: with another seed, a correct implementation fails a test with this probability
BICUBIC = Image.Resampling.BICUBIC


def test_golden_evaluation_transform():
    arrays, meta = read(FOLDER / "recipe" / "eval_transform.npz")
    assert (meta["crop_pct"], meta["size"]) == (0.95, 224)
    with Image.open(FOLDER / "recipe" / "eval_source.png") as source:
        found = Transform("resize(235)|center_crop(224)")(np.asarray(source.convert("RGB")), None)
    difference = np.abs(found.transpose(2, 0, 1).astype(int) - arrays["output"])
    assert difference.max() <= 1 and difference.mean() < 0.01  # the requirement is 1 level on average


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (240, 301), (100, 90), (1200, 900), (3000, 100)])
def test_evaluation_equals_pillow_also_where_only_the_crop_is_computed(size):
    for data in photographs.jpegs(*size)[:3]:
        image = Photo(data)
        whole = Image.fromarray(image.pixels())
        width, height = whole.size
        target = (235, int(235 * height / width)) if width <= height else (int(235 * width / height), 235)
        resized = np.asarray(whole.resize(target, BICUBIC))
        top, left = round((target[1] - 224) / 2), round((target[0] - 224) / 2)
        found = Transform("resize(235)|center_crop(224)")(image, None)
        difference = np.abs(found.astype(int) - resized[top : top + 224, left : left + 224])
        assert difference.mean() < (0.3 if size == (3000, 100) else 1e-9)


def boxes(height, width, count=20_000):
    rng = random.Random(11)
    return np.array([draw_box(height, width, rng) for _ in range(count)])


def area_distribution(share):
    """CDF of the area of crops that fit into a square.

    The area is uniform on 8 to 100 %, weighted by the probability that the crop fits: |log ratio| <= -log area.
    """

    def integral(a):
        flat = np.minimum(a, 3 / 4) - 0.08
        b = np.maximum(a, 3 / 4)
        falling = (b - b * np.log(b)) - (3 / 4 - 3 / 4 * math.log(3 / 4))
        return flat + falling / math.log(4 / 3)

    return integral(np.asarray(share)) / integral(1.0)


def test_areas_of_crops_follow_the_formula():
    found = boxes(2000, 2000)
    assert scipy.stats.kstest(found[:, 2] * found[:, 3] / 2000**2, area_distribution).pvalue > CONFIDENCE


def test_ratios_of_crops_are_log_uniform_and_places_uniform():
    found = boxes(4000, 4000)
    small = found[found[:, 2] * found[:, 3] < 0.5 * 4000**2]  # crops that fit with every ratio
    log_ratio = np.log(small[:, 3] / small[:, 2])
    span = math.log(4 / 3)
    assert len(small) > 8000 and scipy.stats.kstest(log_ratio, "uniform", (-span, 2 * span)).pvalue > CONFIDENCE
    for offset, side in ((0, 2), (1, 3)):
        place = (small[:, offset] + 0.5) / (4000 - small[:, side] + 1)
        assert scipy.stats.kstest(place, "uniform").pvalue > CONFIDENCE


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 1000), (0, 433, 100, 133)),  # no random try (TRIES = 0): the middle, with ratio 4/3
        ((1000, 100), (433, 0, 133, 100)),
        ((1, 20_000), (0, 9999, 1, 1)),
    ],
)
def test_an_image_that_no_crop_fits_is_cut_to_the_nearest_ratio_in_its_middle(size, expected, monkeypatch):
    monkeypatch.setattr(transforms, "TRIES", 0)
    assert draw_box(*size, random.Random(0)) == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (2, 3), (224, 224)])
def test_crops_lie_inside_images_of_any_size(size):
    for top, left, height, width in boxes(*size, count=300):
        assert top >= 0 and left >= 0 and height > 0 and width > 0 and top + height <= size[0] and left + width <= size[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_images_with_a_side_of_one_pixel_give_the_full_output_size(size):
    data = photographs.encoded(Image.new("RGB", size, (10, 200, 30)), "png")
    for line in ("random_resized_crop(224)|flip|randaugment(rand-m7-inc1)", "resize(235)|center_crop(224)"):
        assert Transform(line)(Photo(data), random.Random(1)).shape == (224, 224, 3)


def test_a_resize_whose_result_would_exhaust_memory_is_refused():
    data = photographs.encoded(Image.new("RGB", (1, 20_000)), "png")
    with pytest.raises(Undecodable, match="resized to 4700000x235 pixels it would take more than 1 GiB"):
        Transform("resize(235)")(Photo(data), None)


def test_a_training_line_is_within_one_level_of_pillow_on_the_same_draws():
    for number, (data, image) in enumerate(zip(photographs.jpegs(), photographs.images(), strict=True)):
        rng = random.Random(number)
        top, left, height, width = draw_box(image.height, image.width, rng)
        expected = Image.fromarray(Photo(data).pixels()).crop((left, top, left + width, top + height)).resize((224, 224), BICUBIC)
        if rng.random() < 0.5:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found = Transform("random_resized_crop(224)|flip")(Photo(data), random.Random(number))
        assert photographs.levels(found, expected) < 1
        apart = Transform("random_resized_crop(224)|center_crop(224)|flip")(Photo(data), random.Random(number))
        np.testing.assert_array_equal(found, apart)  # mirroring during the resize equals mirroring after it


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_resize_makes_the_shorter_side_the_size_asked_for():
    assert Transform("resize(16)")(picture(20, 31), None).shape == (16, 24, 3)  # int(16 * 31 / 20) = 24
    assert Transform("resize(16)")(picture(31, 20), None).shape == (24, 16, 3)


def test_center_crop_rounds_half_offsets_to_even():
    image = picture(7, 9)
    np.testing.assert_array_equal(Transform("center_crop(4)")(image, None), image[2:6, 2:6])  # offsets 1.5 -> 2, 2.5 -> 2


def test_pad_crop_reaches_every_offset_and_fills_with_zeros():
    image, rng = picture(4, 4) // 2 + 1, random.Random(0)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[i : i + 4, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    assert {Transform("pad_crop(1)")(image, rng).tobytes() for _ in range(200)} == windows


def test_flip_mirrors_half_of_the_images():
    image, rng = picture(2, 3), random.Random(0)
    found = [Transform("flip")(image, rng) for _ in range(1000)]
    flipped = sum(np.array_equal(x, image[:, ::-1]) for x in found)
    assert flipped + sum(np.array_equal(x, image) for x in found) == 1000
    assert abs(flipped - 500) < 3.3 * 15.8  # binomial: 3.3 standard deviations of 15.8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("blur(3)", "'blur\\(3\\)' in 'blur\\(3\\)' is unknown"),
        ("flip|resize", "'resize' .* takes one whole number"),
        ("flip(2)", "takes no argument"),
        ("lighting", "'lighting' .* takes one positive number"),
        ("lighting(-0.1)", "takes one positive number"),
        ("resize(1 6)", "takes one whole number"),
        ("randaugment(rand-m7)", "randaugment\\(rand-m7\\) is unknown"),
    ],
)
def test_a_wrong_transform_line_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        Transform(line)


def test_lighting_adds_one_color_that_follows_the_principal_components():
    deviation, eigenvalues = 0.1, [0.2175, 0.0188, 0.0045]
    vectors = [(-0.5675, -0.5808, -0.5836), (0.7192, -0.0045, -0.6948), (0.4009, -0.8140, 0.4203)]
    image = np.full((2, 3, 3), 128, np.uint8)
    shifts, rng = [], random.Random(0)
    for _ in range(4000):
        found = Transform("lighting(0.1)")(image, rng).astype(int) - 128
        assert (found == found[0, 0]).all()  # every pixel moves by the same color
        shifts.append(found[0, 0])
    covariance = sum(255**2 * deviation**2 * value**2 * np.outer(v, v) for value, v in zip(eigenvalues, vectors, strict=True))
    np.testing.assert_allclose(np.cov(np.array(shifts).T), covariance + np.eye(3) / 12, atol=0.08 * covariance.max())  # 1/12: rounding
    assert np.abs(np.mean(shifts, axis=0)).max() < 4 * np.sqrt(covariance.max() / 4000)


def test_lighting_draws_six_numbers_and_cuts_at_black_and_white():
    class Given:
        """Gives chosen numbers in place of random ones: v = 0.1 sqrt(-2 log(1/2)) (1, -1, 0)."""

        def __init__(self):
            self.numbers = iter([0.5, 0.0, 0.5, 0.5, 0.0, 0.25])

        def random(self):
            return next(self.numbers)

    given, size = Given(), 0.1 * math.sqrt(2 * math.log(2))
    image = np.array([[[0, 128, 255], [250, 3, 9]]], np.uint8)
    found = Transform("lighting(0.1)")(image, given)
    color = [255 * size * (a * 0.2175 - b * 0.0188) for a, b in ((-0.5675, 0.7192), (-0.5808, -0.0045), (-0.5836, -0.6948))]
    np.testing.assert_array_equal(found, np.clip(np.rint(image + np.array(color)), 0, 255))
    assert list(given.numbers) == [] and color[0] < -3 and found[0, 0, 0] == 0


def test_a_flip_after_lighting_mirrors_the_lit_image():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    for seed in range(6):
        rng = random.Random(seed)
        lit = Transform("random_resized_crop(4)|lighting(0.1)")(image, rng)
        mirrored = rng.random() < 0.5
        found = Transform("random_resized_crop(4)|lighting(0.1)|flip")(image, random.Random(seed))
        np.testing.assert_array_equal(found, lit[:, ::-1] if mirrored else lit)
