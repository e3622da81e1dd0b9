"""RandAugment as timm writes it, e.g. rand-m7-mstd0.5-inc1: a few operations an image, drawn from fifteen (SPEC section 3).

Cubuk et al., RandAugment, arXiv 1909.13719. Each drawn operation is skipped with probability 1/2; else its magnitude is
m = clip(N(M, mstd^2), 0, 10). "inc1": a larger m always means a stronger change. Arguments by operation:

    Rotate                       +-3 m degrees            Posterize         4 - int(0.4 m) bits kept
    ShearX, ShearY               +-0.03 m                 Solarize          values from 256 - int(25.6 m) on are inverted
    TranslateXRel, TranslateYRel +-0.045 m sides          SolarizeAdd       min(128, int(11 m)) is added to values below 128
    Color, Contrast, Brightness, Sharpness  factor max(0.1, 1 +- 0.09 m)     AutoContrast, Equalize, Invert: none

The operations are Pillow's; geometric ones are bicubic and fill with the mean colour of ImageNet.
"""

import math
import re

import numpy as np

from bnext_jax.data.augment import kernels, operations
from bnext_jax.errors import UserError

FILL = np.array([124, 116, 104], np.uint8)
LEVELS = 10.0  # magnitudes lie in 0..10
SKIPPED = 0.5
VALUES = np.arange(256)


def _table(image, values):
    """The image through one table for all channels; values: numbers that are cut to 0..255."""
    return operations.lookup(image, np.tile(np.clip(values, 0, 255).astype(np.uint8), (3, 1)))


def auto_contrast(image):
    """Each channel stretched to 0..255; a channel of one value stays."""
    tables = np.tile(VALUES.astype(np.uint8), (3, 1))
    for table, counts in zip(tables, operations.histogram(image), strict=True):
        present = np.flatnonzero(counts)
        low, high = int(present[0]), int(present[-1])
        if high > low:
            scale = 255.0 / (high - low)
            table[:] = np.clip((VALUES * scale - low * scale).astype(np.int64), 0, 255)
    return operations.lookup(image, tables)


def equalize(image):
    """Each channel's histogram made flat."""
    tables = np.tile(VALUES.astype(np.uint8), (3, 1))
    for table, counts in zip(tables, operations.histogram(image), strict=True):
        present = np.flatnonzero(counts)
        step = int(counts.sum() - counts[present[-1]]) // 255
        if len(present) > 1 and step:
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            table[:] = np.minimum((step // 2 + before) // step, 255)
    return operations.lookup(image, tables)


def invert(image):
    """255 minus each value."""
    return _table(image, 255 - VALUES)


def posterize(image, bits):
    """Only the highest `bits` bits of each value are kept."""
    return _table(image, VALUES & ~(2 ** (8 - bits) - 1))


def solarize(image, threshold):
    """Values from the threshold on are inverted."""
    return _table(image, np.where(threshold > VALUES, VALUES, 255 - VALUES))


def solarize_add(image, amount):
    """`amount` is added to values below 128."""
    return _table(image, np.where(VALUES < 128, VALUES + amount, VALUES))


def _blend(image, start, factor):
    """The table between one value (factor 0) and the image (1)."""
    return _table(image, np.trunc(np.float32(start) + np.float32(factor) * (VALUES - start).astype(np.float32)))


def color(image, factor):
    """Between grey (0) and the image (1), or beyond."""
    return operations.saturate(image, np.float32(factor))


def contrast(image, factor):
    """Between the mean luminance (0) and the image (1), or beyond."""
    mean = operations.luminance_sum(image) / (image.shape[0] * image.shape[1])
    return _blend(image, int(mean + 0.5), factor)


def brightness(image, factor):
    """Between black (0) and the image (1), or beyond."""
    return _blend(image, 0, factor)


def sharpness(image, factor):
    """Between the smoothed image (0) and the image (1), or beyond."""
    return operations.sharpen(image, np.float32(factor))


def rotate(image, degrees):
    """Counter-clockwise about the centre, size kept."""
    height, width = image.shape[:2]
    cos, sin = round(math.cos(math.radians(degrees)), 15), round(math.sin(math.radians(degrees)), 15)
    x, y = width / 2, height / 2
    return kernels.warp(image, cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, FILL)


def shear_x(image, amount):
    """Row y moved left by amount * y pixels."""
    return kernels.shift_rows(image, amount, 0.0, FILL)


def shear_y(image, amount):
    """Column x moved up by amount * x pixels."""
    return kernels.shift_columns(image, amount, 0.0, FILL)


def translate_x(image, share):
    """The content moved left by a share of the width."""
    return kernels.shift_rows(image, 0.0, share * image.shape[1], FILL)


def translate_y(image, share):
    """The content moved up by a share of the height."""
    return kernels.shift_columns(image, 0.0, share * image.shape[0], FILL)


def _signed(scale):
    return lambda m, sign: sign * scale * m


def _factor(m, sign):
    return max(0.1, 1 + sign * 0.09 * m)


# name -> (function, magnitude and sign -> its argument; None = it takes none)
OPERATIONS = {
    "AutoContrast": (auto_contrast, None),
    "Equalize": (equalize, None),
    "Invert": (invert, None),
    "Rotate": (rotate, _signed(3.0)),
    "PosterizeIncreasing": (posterize, lambda m, sign: 4 - int(0.4 * m)),
    "SolarizeIncreasing": (solarize, lambda m, sign: 256 - int(25.6 * m)),
    "SolarizeAdd": (solarize_add, lambda m, sign: min(128, int(11 * m))),
    "ColorIncreasing": (color, _factor),
    "ContrastIncreasing": (contrast, _factor),
    "BrightnessIncreasing": (brightness, _factor),
    "SharpnessIncreasing": (sharpness, _factor),
    "ShearX": (shear_x, _signed(0.03)),
    "ShearY": (shear_y, _signed(0.03)),
    "TranslateXRel": (translate_x, _signed(0.045)),
    "TranslateYRel": (translate_y, _signed(0.045)),
}
NAMES = tuple(OPERATIONS)


class RandAugment:
    """The policy of a timm string.

    Args:
      text: "rand-mM[-mstdS][-nN]-inc1": M magnitude 0..10, S its standard deviation (0), N operations an image (2).
    Raises:
      UserError: another text, or a policy without "inc1", whose operations are others.
    """

    def __init__(self, text):
        match = re.fullmatch(r"rand-m(?P<m>\d+(?:\.\d+)?)(?:-mstd(?P<mstd>\d+(?:\.\d+)?))?(?:-n(?P<n>\d+))?-inc1", text)
        if not match or not 0 <= float(match["m"]) <= LEVELS:
            raise UserError(
                f"randaugment({text}) is unknown; write it as rand-m7-mstd0.5-inc1, with a magnitude of 0 to 10 (-n2: operations)"
            )
        self.magnitude, self.spread, self.count = float(match["m"]), float(match["mstd"] or 0), int(match["n"] or 2)

    def draw(self, rng):
        """[(name, argument or None)] of one image, skipped operations left out; rng: random.Random, of which random() is used.

        An operation takes five numbers, drawn or skipped, so that one never changes the next.
        """
        drawn = []
        for _ in range(self.count):
            name, chance, side = NAMES[int(rng.random() * len(NAMES))], rng.random(), rng.random()
            normal = math.sqrt(-2 * math.log(1 - rng.random())) * math.cos(2 * math.pi * rng.random())  # Box and Muller
            if chance < SKIPPED:
                continue
            m = min(max(self.magnitude + self.spread * normal, 0.0), LEVELS)
            argument = OPERATIONS[name][1]
            drawn.append((name, argument and argument(m, 1.0 if side < 0.5 else -1.0)))
        return drawn

    def __call__(self, image, rng):
        """uint8 [H,W,3], random.Random -> uint8 [H,W,3]."""
        for name, argument in self.draw(rng):
            function = OPERATIONS[name][0]
            image = function(image) if argument is None else function(image, argument)
        return image
