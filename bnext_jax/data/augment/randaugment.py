"""RandAugment with timm's policy strings, e.g. rand-m7-mstd0.5-inc1 (docs/spec.md, section 3).

Cubuk et al. 2019, arXiv 1909.13719. A policy draws a few operations for each image, from fifteen. Each drawn operation is skipped with
probability 1/2. Otherwise its magnitude is m = clip(N(M, mstd^2), 0, 10). "inc1": a larger m always means a stronger change.
The arguments of the operations ("+-": each sign with probability 1/2):

    Rotate                       +-3 m degrees            Posterize         4 - int(0.4 m) bits kept
    ShearX, ShearY               +-0.03 m                 Solarize          values from 256 - int(25.6 m) on are inverted
    TranslateXRel, TranslateYRel +-0.045 m of the side    SolarizeAdd       min(128, int(11 m)) is added to values below 128
    Color, Contrast, Brightness, Sharpness  factor max(0.1, 1 +- 0.09 m)     AutoContrast, Equalize, Invert: none

The operations are Pillow's. Geometric operations are bicubic and fill with the mean color of ImageNet.
All functions take and return uint8 [H,W,3].
"""

import math
import random
import re
from collections.abc import Callable

import numpy as np

from bnext_jax.data.augment import kernels, operations
from bnext_jax.errors import UserError

FILL = np.array([124, 116, 104], np.uint8)
LEVELS = 10.0  # the largest magnitude; the smallest is 0
SKIPPED = 0.5  # probability
VALUES = np.arange(256)


def _table(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Applies one look-up table to all channels. values: [256], clipped to [0, 255] and truncated to bytes."""
    return operations.lookup(image, np.tile(np.clip(values, 0, 255).astype(np.uint8), (3, 1)))


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to the range 0..255; a channel with a single value does not change."""
    tables = np.tile(VALUES.astype(np.uint8), (3, 1))
    for table, counts in zip(tables, operations.histogram(image), strict=True):
        present = np.flatnonzero(counts)
        low, high = int(present[0]), int(present[-1])
        if high > low:
            scale = 255.0 / (high - low)
            table[:] = np.clip((VALUES * scale - low * scale).astype(np.int64), 0, 255)
    return operations.lookup(image, tables)


def equalize(image: np.ndarray) -> np.ndarray:
    """Equalizes the histogram of each channel."""
    tables = np.tile(VALUES.astype(np.uint8), (3, 1))
    for table, counts in zip(tables, operations.histogram(image), strict=True):
        present = np.flatnonzero(counts)
        step = int(counts.sum() - counts[present[-1]]) // 255
        if len(present) > 1 and step:
            before = np.concatenate([[0], np.cumsum(counts)[:-1]])
            table[:] = np.minimum((step // 2 + before) // step, 255)
    return operations.lookup(image, tables)


def invert(image: np.ndarray) -> np.ndarray:
    """Replaces each value v by 255 - v."""
    return _table(image, 255 - VALUES)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps only the highest `bits` bits of each value."""
    return _table(image, VALUES & ~(2 ** (8 - bits) - 1))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values that are at least `threshold`."""
    return _table(image, np.where(threshold > VALUES, VALUES, 255 - VALUES))


def solarize_add(image: np.ndarray, amount: int) -> np.ndarray:
    """Adds `amount` to the values below 128, capped at 255."""
    return _table(image, np.where(VALUES < 128, VALUES + amount, VALUES))


def _blend(image: np.ndarray, start: int, factor: float) -> np.ndarray:
    """Interpolates between the constant `start` (factor 0) and the image (factor 1); other factors extrapolate."""
    return _table(image, np.trunc(np.float32(start) + np.float32(factor) * (VALUES - start).astype(np.float32)))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolates between the gray image (factor 0) and the image (factor 1); other factors extrapolate."""
    return operations.saturate(image, np.float32(factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolates between the mean luminance (factor 0) and the image (factor 1); other factors extrapolate."""
    mean = operations.luminance_sum(image) / (image.shape[0] * image.shape[1])
    return _blend(image, int(mean + 0.5), factor)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolates between black (factor 0) and the image (factor 1); other factors extrapolate."""
    return _blend(image, 0, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Interpolates between the smoothed image (factor 0) and the image (factor 1); other factors extrapolate."""
    return operations.sharpen(image, np.float32(factor))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates counter-clockwise about the center and keeps the size."""
    height, width = image.shape[:2]
    cos, sin = round(math.cos(math.radians(degrees)), 15), round(math.sin(math.radians(degrees)), 15)
    x, y = width / 2, height / 2
    return kernels.warp(image, cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, FILL)


def shear_x(image: np.ndarray, amount: float) -> np.ndarray:
    """Moves row y left by amount * (y + 1/2) pixels."""
    return kernels.shift_rows(image, amount, 0.0, FILL)


def shear_y(image: np.ndarray, amount: float) -> np.ndarray:
    """Moves column x up by amount * (x + 1/2) pixels."""
    return kernels.shift_columns(image, amount, 0.0, FILL)


def translate_x(image: np.ndarray, share: float) -> np.ndarray:
    """Moves the content left by `share` times the width."""
    return kernels.shift_rows(image, 0.0, share * image.shape[1], FILL)


def translate_y(image: np.ndarray, share: float) -> np.ndarray:
    """Moves the content up by `share` times the height."""
    return kernels.shift_columns(image, 0.0, share * image.shape[0], FILL)


def _signed(scale: float) -> Callable[[float, float], float]:
    return lambda m, sign: sign * scale * m


def _factor(m: float, sign: float) -> float:
    return max(0.1, 1 + sign * 0.09 * m)


# name -> (operation, function from magnitude and sign to the argument; None: the operation takes no argument)
OPERATIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[[float, float], float] | None]] = {
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
    """The RandAugment policy that a timm string describes.

        >>> policy = RandAugment("rand-m7-mstd0.5-inc1")
        >>> changed = policy(image, random.Random(0))  # uint8 [H,W,3] -> uint8 [H,W,3]

    Args:
      text: "rand-mM[-mstdS][-nN]-inc1". M: magnitude, 0..10. S: standard deviation of the magnitude, default 0.
        N: operations per image, default 2.
    Raises:
      UserError: the text has another form, or has no "inc1" (timm then uses other operations).
    """

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"rand-m(?P<m>\d+(?:\.\d+)?)(?:-mstd(?P<mstd>\d+(?:\.\d+)?))?(?:-n(?P<n>\d+))?-inc1", text)
        if not match or not 0 <= float(match["m"]) <= LEVELS:
            raise UserError(
                f"randaugment({text}) is unknown; write it as rand-m7-mstd0.5-inc1, with a magnitude of 0 to 10 (-n2: operations)"
            )
        self.magnitude, self.spread, self.count = float(match["m"]), float(match["mstd"] or 0), int(match["n"] or 2)

    def draw(self, rng: random.Random) -> list[tuple[str, float | None]]:
        """Draws the operations for one image.

        Each operation, also a skipped one, uses five random numbers. So one operation never changes the random numbers of the next.

        Args:
          rng: only its method random() is used.
        Returns:
          [(name, argument or None), ...], without the skipped operations.
        """
        drawn = []
        for _ in range(self.count):
            name, chance, side = NAMES[int(rng.random() * len(NAMES))], rng.random(), rng.random()
            normal = math.sqrt(-2 * math.log(1 - rng.random())) * math.cos(2 * math.pi * rng.random())  # Box-Muller: N(0, 1)
            if chance < SKIPPED:
                continue
            m = min(max(self.magnitude + self.spread * normal, 0.0), LEVELS)
            argument = OPERATIONS[name][1]
            drawn.append((name, argument and argument(m, 1.0 if side < 0.5 else -1.0)))
        return drawn

    def __call__(self, image: np.ndarray, rng: random.Random) -> np.ndarray:
        """Applies the drawn operations in order: uint8 [H,W,3] -> uint8 [H,W,3]."""
        for name, argument in self.draw(rng):
            function = OPERATIONS[name][0]
            image = function(image) if argument is None else function(image, argument)
        return image
