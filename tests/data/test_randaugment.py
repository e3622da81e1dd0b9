"""RandAugment: operations are compared with Pillow and the reference outputs, and draws with their distributions."""

import json
import math
import random

import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageEnhance, ImageOps

from bnext_jax.data.augment import randaugment
from bnext_jax.data.augment.randaugment import NAMES, OPERATIONS, RandAugment
from bnext_jax.errors import UserError
from tests.helpers import photographs
from tests.helpers.golden_files import FOLDER

RECIPE = "rand-m7-mstd0.5-inc1"
GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
BLENDS = {"ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"}
IMAGES = [np.asarray(image.resize((97, 70))) for image in photographs.images()] + [
    np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8),
    np.full((9, 9, 3), 77, np.uint8),
    np.random.default_rng(1).integers(90, 95, (1, 5, 3), dtype=np.uint8),
]
CONFIDENCE = 0.001  # significance level: with another seed, a correct implementation fails a test with this probability


def goldens():
    with np.load(FOLDER / "recipe" / "randaugment_ops.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return arrays, json.loads(str(arrays["args"]))


def apply(name, image, *arguments):
    return OPERATIONS[name][0](image, *arguments)


@pytest.mark.parametrize("key", sorted(goldens()[1]))
def test_golden_operation(key):
    arrays, arguments = goldens()
    name, magnitude = key.rstrip("-").split("@")
    argument = OPERATIONS[name][1]
    sign = -1.0 if key.endswith("-") else 1.0
    given = [] if argument is None else [argument(float(magnitude), sign)]
    assert given == pytest.approx(arguments[key], abs=1e-9)
    difference = np.abs(apply(name, arrays["input"], *given).astype(int) - arrays[key])
    if name in GEOMETRIC:
        assert difference.mean() < 0.05  # the requirement is 2 levels
    else:
        assert difference.max() <= (1 if name in BLENDS else 0)


def test_golden_recipe_has_every_operation():
    assert {key.split("@")[0] for key in goldens()[1]} == set(NAMES) and len(NAMES) == 15


def solarize_add(image, amount):
    table = [min(255, i + amount) if i < 128 else i for i in range(256)]
    return image.point(table * 3)


PILLOW = {
    "AutoContrast": (lambda image: ImageOps.autocontrast(image), [()]),
    "Equalize": (lambda image: ImageOps.equalize(image), [()]),
    "Invert": (lambda image: ImageOps.invert(image), [()]),
    "PosterizeIncreasing": (ImageOps.posterize, [(1,), (4,), (8,)]),
    "SolarizeIncreasing": (ImageOps.solarize, [(0,), (77,), (256,)]),
    "SolarizeAdd": (solarize_add, [(0,), (77,), (128,)]),
    "ColorIncreasing": (lambda image, f: ImageEnhance.Color(image).enhance(f), [(0.1,), (0.63,), (1.0,), (1.9,)]),
    "ContrastIncreasing": (lambda image, f: ImageEnhance.Contrast(image).enhance(f), [(0.1,), (0.63,), (1.0,), (1.9,)]),
    "BrightnessIncreasing": (lambda image, f: ImageEnhance.Brightness(image).enhance(f), [(0.1,), (0.63,), (1.0,), (1.9,)]),
    "SharpnessIncreasing": (lambda image, f: ImageEnhance.Sharpness(image).enhance(f), [(0.1,), (0.63,), (1.0,), (1.9,)]),
}


@pytest.mark.parametrize("name", sorted(PILLOW))
def test_operations_on_values_equal_pillow_to_the_last_bit(name):
    function, cases = PILLOW[name]
    for image in IMAGES:
        for arguments in cases:
            expected = np.asarray(function(Image.fromarray(image), *arguments))
            np.testing.assert_array_equal(apply(name, image, *arguments), expected, err_msg=f"{name}{arguments} of {image.shape}")


@pytest.mark.parametrize("degrees", [0.0, 21.0, -21.0, 29.3, -8.7])
def test_rotation_is_within_a_tenth_of_a_level_of_pillow_on_average(degrees):
    for image in IMAGES:
        expected = Image.fromarray(image).rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=(124, 116, 104))
        assert photographs.levels(randaugment.rotate(image, degrees), expected) < 0.1


def draws(count, text=RECIPE, seed=5):
    policy, rng = RandAugment(text), random.Random(seed)
    return [policy.draw(rng) for _ in range(count)]


def test_operations_are_drawn_equally_often_and_half_of_them_are_skipped():
    images = draws(30_000)
    counts = [sum(name == wanted for image in images for name, _ in image) for wanted in NAMES]
    assert scipy.stats.chisquare(counts).pvalue > CONFIDENCE  # 15 equal frequencies
    applied = [sum(len(image) == n for image in images) for n in range(3)]
    # The number of operations of an image is binomial with n = 2, p = 1/2.
    assert scipy.stats.chisquare(applied, [7_500, 15_000, 7_500]).pvalue > CONFIDENCE
    pairs = sum(len(image) == 2 and image[0][0] == image[1][0] for image in images)
    assert scipy.stats.binomtest(pairs, applied[2], 1 / 15).pvalue > CONFIDENCE  # operations are drawn with replacement


def arguments(name):
    return np.array([argument for image in draws(60_000) for drawn, argument in image if drawn == name])


@pytest.mark.parametrize(
    ("name", "scale"), [("Rotate", 3), ("ShearX", 0.03), ("ShearY", 0.03), ("TranslateXRel", 0.045), ("TranslateYRel", 0.045)]
)
def test_magnitudes_are_normal_about_seven_with_either_sign(name, scale):
    found = arguments(name) / scale
    assert scipy.stats.kstest(np.abs(found), "norm", (7, 0.5)).pvalue > CONFIDENCE
    assert scipy.stats.binomtest(int((found > 0).sum()), len(found), 0.5).pvalue > CONFIDENCE
    assert scipy.stats.ks_2samp(found[found > 0], -found[found < 0]).pvalue > CONFIDENCE  # the sign is independent of the size


@pytest.mark.parametrize("name", sorted(BLENDS))
def test_factors_are_one_plus_or_minus_nine_hundredths_of_the_magnitude(name):
    found = (arguments(name) - 1) / 0.09
    assert scipy.stats.kstest(np.abs(found), "norm", (7, 0.5)).pvalue > CONFIDENCE
    assert scipy.stats.binomtest(int((found > 0).sum()), len(found), 0.5).pvalue > CONFIDENCE


def test_integer_arguments_follow_from_the_normal_magnitude():
    m = np.random.default_rng(9).normal(7, 0.5, 200_000).clip(0, 10)
    for name, expected in (
        ("PosterizeIncreasing", 4 - np.trunc(0.4 * m)),
        ("SolarizeIncreasing", 256 - np.trunc(25.6 * m)),
        ("SolarizeAdd", np.trunc(11 * m)),
    ):
        found = arguments(name)
        assert (found == np.trunc(found)).all()
        error = 4 * np.std(expected) / math.sqrt(len(found))  # four standard deviations of the mean
        assert found.mean() == pytest.approx(expected.mean(), abs=error)


def test_magnitudes_are_clipped_and_factors_never_fall_below_a_tenth():
    high = [argument for image in draws(4000, "rand-m10-mstd3-inc1") for name, argument in image if name == "Rotate"]
    assert max(map(abs, high)) == pytest.approx(30) and sum(abs(a) == pytest.approx(30) for a in high) > len(high) / 3
    low = [argument for image in draws(4000, "rand-m10-inc1") for name, argument in image if name == "ColorIncreasing"]
    assert set(np.round(low, 9)) == {0.1, 1.9}


@pytest.mark.parametrize("text", ["rand-m7-mstd0.5", "rand-m11-inc1", "augmix", "rand-m7-inc0", ""])
def test_unknown_policies_are_refused(text):
    with pytest.raises(UserError, match=r"randaugment\(.*\) is unknown; write it as rand-m7-mstd0.5"):
        RandAugment(text)


def test_n_sets_the_number_of_operations_and_draws_depend_on_the_generator():
    assert max(len(image) for image in draws(500, "rand-m5-n4-inc1")) == 4
    assert draws(50) == draws(50) != draws(50, seed=6)
    image = IMAGES[0]
    policy = RandAugment(RECIPE)
    np.testing.assert_array_equal(policy(image, random.Random(3)), policy(image, random.Random(3)))
