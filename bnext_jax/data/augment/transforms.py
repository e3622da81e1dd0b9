"""Transforms of one image. A config names them on one line: "random_resized_crop(224)|flip|randaugment(rand-m7-mstd0.5-inc1)".

random_resized_crop(s)  crops a rectangle (8 to 100 % of the area, ratio 3/4 to 4/3), resizes it to s x s: bicubic, antialiased
flip                    mirrors left to right with probability 1/2
randaugment(text)       applies a timm policy, see data.augment.randaugment
resize(s)               Pillow's bicubic with antialiasing: shorter side s, longer side int(s * long / short)
center_crop(s)          crops s x s pixels, offset = (size - s)/2 rounded half to even
lighting(d)             shifts all pixels along the principal colors of ImageNet, by normal draws of standard deviation d
pad_crop(p)             adds p pixels of zeros on all sides, then takes a random crop of the original size

The input is uint8 [H,W,3] or a data.decode.photo.Photo. Each image has its own random.Random. The transforms use only its method
random(), because random() gives the same numbers in every version of Python.
"""

import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from bnext_jax.data.augment import kernels, operations
from bnext_jax.data.augment.randaugment import RandAugment
from bnext_jax.data.decode.photo import WORK_BYTES, Photo, Undecodable
from bnext_jax.errors import UserError

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TRIES = 10  # random rectangles that draw_box tries
MIRRORED = 0.5  # probability of flip
# Principal components of ImageNet's colors, for pixels in [0, 1] (Krizhevsky et al. 2012): columns of E, and their eigenvalues.
COLOURS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
OBLONG = 8  # if the resized image has more than 8 times the pixels of the crop, only the crop is computed


def _size(image: np.ndarray | Photo) -> tuple[int, int]:
    return (image.height, image.width) if isinstance(image, Photo) else image.shape[:2]


def pixels_of(image: np.ndarray | Photo) -> np.ndarray:
    """The pixels of an image that may still be encoded: uint8 [H,W,3]. Raises Undecodable."""
    return image.pixels() if isinstance(image, Photo) else image


def _region(image, box, target, *, fast):
    """Returns (pixels, top, left, height, width): the pixels needed to resize the rectangle `box` to `target`. See Photo.region."""
    if isinstance(image, Photo):
        return image.region(*box, out_height=target[0], out_width=target[1], fast=fast)
    return np.ascontiguousarray(image), *map(float, box)


def draw_box(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Draws a random rectangle of an image.

    The area is uniform in 8 to 100 % of the image; the ratio width / height is log-uniform in 3/4 to 4/3. Both sides are rounded.
    If the rectangle does not fit, it is drawn again, up to ten times in all. Then the position is drawn uniformly.
    If no try fits, the result is the largest central rectangle with a ratio inside the bounds.

    Args:
      height: rows of the image, in pixels.
      width: columns of the image, in pixels.
      rng: only its method random() is used.
    Returns:
      (top, left, height, width), in pixels.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(TRIES):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * rng.random())
        ratio = math.exp(low + (high - low) * rng.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(image: np.ndarray | Photo, rng: random.Random, size: int, chance: float = 0.0) -> np.ndarray:
    """Resizes a random rectangle (draw_box) to a square, and mirrors it with a given probability.

    Args:
      image: uint8 [H,W,3] or a Photo.
      rng: only its method random() is used.
      size: side of the result, in pixels.
      chance: probability of mirroring left to right; same result as `flip` after this transform.
    Returns:
      uint8 [size,size,3].
    """
    pixels, top, left, height, width = _region(image, draw_box(*_size(image), rng), (size, size), fast=True)
    return kernels.resample(pixels, top, left, height, width, size, size, chance > 0 and rng.random() < chance)


def _resized_size(height: int, width: int, size: int) -> tuple[int, int]:
    other = int(size * max(height, width) / min(height, width))
    return (other, size) if width <= height else (size, other)


def _resized(image, target, window):
    """Resizes an image to `target` (height, width) and returns the window (top, left, height, width) of it, with Pillow's pixels.

    Pillow chooses the order of its two passes by the size of the result, and the order changes the rounding. So this function resizes
    the whole image and then cuts out the window, except where the window is a small part of the resized image (OBLONG).
    """
    top, left, out_height, out_width = window
    if 3 * out_height * out_width > WORK_BYTES:
        raise Undecodable(f"resized to {target[0]}x{target[1]} pixels it would take more than {WORK_BYTES / 2**30:.0f} GiB")
    pixels, _, _, height, width = _region(image, (0, 0, *_size(image)), target, fast=False)
    whole = Image.fromarray(pixels)
    if target[0] * target[1] <= OBLONG * out_height * out_width:
        resized = np.asarray(whole.resize(target[::-1], Image.Resampling.BICUBIC))
        return resized[top : top + out_height, left : left + out_width]
    down, across = height / target[0], width / target[1]  # pixels of the image per pixel of the result
    box = left * across, top * down, min((left + out_width) * across, width), min((top + out_height) * down, height)
    return np.asarray(whole.resize((out_width, out_height), Image.Resampling.BICUBIC, box=box))


def resize(image: np.ndarray | Photo, rng: random.Random, size: int) -> np.ndarray:
    """Resizes an image so that its shorter side has `size` pixels.

    Args:
      image: uint8 [H,W,3] or a Photo.
      rng: unused.
      size: shorter side of the result, in pixels.
    Returns:
      uint8 [H',W',3].
    Raises:
      Undecodable: the result would take more than photo.WORK_BYTES of memory, or the image cannot be decoded.
    """
    del rng
    target = _resized_size(*_size(image), size)
    return _resized(image, target, (0, 0, *target))


def _center(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns (top, left) of the central square. Raises UserError if the image is smaller than the square."""
    if min(height, width) < size:
        raise UserError(f"center_crop({size}) meets an image of {height}x{width} pixels; put a resize before it")
    return round((height - size) / 2), round((width - size) / 2)


def center_crop(image: np.ndarray | Photo, rng: random.Random, size: int) -> np.ndarray:
    """Crops the central square: -> uint8 [size,size,3]. Raises UserError if the image is smaller. `rng` is unused."""
    del rng
    image = pixels_of(image)
    height, width = image.shape[:2]
    top, left = _center(height, width, size)
    return image[top : top + size, left : left + size]


def resize_center_crop(image: np.ndarray | Photo, rng: random.Random, short: int, size: int) -> np.ndarray:
    """Does resize(short), then center_crop(size); for very oblong images it computes only the crop (see _resized)."""
    del rng
    target = _resized_size(*_size(image), short)
    return _resized(image, target, (*_center(*target, size), size, size))


def pad_crop(image: np.ndarray | Photo, rng: random.Random, padding: int) -> np.ndarray:
    """Moves the image by up to `padding` pixels in each direction and fills with zeros: -> uint8 [H,W,3], the same size."""
    image = pixels_of(image)
    height, width = image.shape[:2]
    top, left = (int(rng.random() * (2 * padding + 1)) for _ in range(2))
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    return padded[top : top + height, left : left + width]


def flip(image: np.ndarray | Photo, rng: random.Random) -> np.ndarray:
    """Mirrors the image left to right with probability 1/2: -> uint8 [H,W,3]."""
    image = pixels_of(image)
    return operations.mirror(np.ascontiguousarray(image)) if rng.random() < MIRRORED else image


def _normal(rng):
    """Draws a standard normal number from two uniform ones (Box and Muller): sqrt(-2 log(1 - u)) cos(2 pi v)."""
    radius = math.sqrt(-2 * math.log(1 - rng.random()))
    return radius * math.cos(2 * math.pi * rng.random())


def lighting(image: np.ndarray | Photo, rng: random.Random, deviation: float) -> np.ndarray:
    """Adds one color to all pixels of an image (Krizhevsky et al. 2012, section 4.1).

    With v three normal draws of the given standard deviation, pixels in 0 to 255 get 255 E (v * EIGENVALUES) added. They are rounded, and
    cut to 0 to 255. The published code of Bi-Real Net and ReActNet adds the color without the factor 255, so that it hardly changes a
    pixel; this function does what the method means.

    Args:
      image: uint8 [H,W,3] or a Photo.
      rng: only its method random() is used, six times.
      deviation: standard deviation of v.
    Returns:
      uint8 [H,W,3].
    """
    drawn = np.array([deviation * _normal(rng) for _ in range(3)])
    color = 255 * COLOURS @ (drawn * EIGENVALUES)
    table = np.clip(np.rint(np.arange(256) + color[:, None]), 0, 255).astype(np.uint8)  # 256 sums in place of one a pixel
    return operations.lookup(np.ascontiguousarray(pixels_of(image)), table)


def randaugment(image: np.ndarray | Photo, rng: random.Random, policy: RandAugment) -> np.ndarray:
    """Applies a RandAugment policy: -> uint8 [H,W,3], the same size."""
    return policy(np.ascontiguousarray(pixels_of(image)), rng)


def _whole(text):
    if not re.fullmatch(r"\d+", text):
        raise ValueError
    return int(text)


def _positive(text):
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


# name -> (transform, parser of the text in brackets; None: the transform takes no argument)
OPERATIONS: dict[str, tuple[Callable[..., np.ndarray], Callable[[str], Any] | None]] = {
    "random_resized_crop": (random_resized_crop, _whole),
    "flip": (flip, None),
    "randaugment": (randaugment, RandAugment),
    "resize": (resize, _whole),
    "center_crop": (center_crop, _whole),
    "pad_crop": (pad_crop, _whole),
    "lighting": (lighting, _positive),
}


class Transform:
    """Applies the operations of one line, in order.

        >>> transform = Transform("resize(235)|center_crop(224)")
        >>> pixels = transform(image, random.Random(0))  # uint8 [224,224,3]

    Args:
      line: operations joined by "|"; "" returns the image unchanged.
    Attributes:
      steps: [(function, arguments), ...]. Two pairs of neighbors become one step: resize|center_crop and random_resized_crop|flip.
    Raises:
      UserError: an operation is unknown, or its argument is wrong.
    """

    def __init__(self, line: str) -> None:
        self.steps: list[tuple[Callable[..., np.ndarray], list[Any]]] = []
        for part in filter(None, (piece.strip() for piece in line.split("|"))):
            match = re.fullmatch(r"(\w+)(?:\((.*)\))?", part)
            if match is None or match[1] not in OPERATIONS:
                raise UserError(f"transform {part!r} in {line!r} is unknown; operations: {', '.join(OPERATIONS)}")
            function, make = OPERATIONS[match[1]]
            try:
                arguments = [make(match[2].strip())] if make else []
            except UserError:
                raise
            except (ValueError, AttributeError) as error:  # not a number, or no brackets
                wanted = "positive number" if make is _positive else "whole number"
                raise UserError(f"transform {part!r} in {line!r} takes one {wanted}") from error
            if not make and match[2] is not None:
                raise UserError(f"transform {part!r} in {line!r} takes no argument")
            if function is center_crop and self.steps and self.steps[-1][0] is resize:
                function, arguments = resize_center_crop, self.steps.pop()[1] + arguments
            elif function is flip and self.steps and self.steps[-1][0] is random_resized_crop:
                function, arguments = random_resized_crop, [*self.steps.pop()[1], MIRRORED]
            self.steps.append((function, arguments))

    def __call__(self, image: np.ndarray | Photo, rng: random.Random | None) -> np.ndarray:
        """Transforms one image.

        Args:
          image: uint8 [H,W,3] or a Photo.
          rng: only its method random() is used.
        Returns:
          uint8 [H',W',3], contiguous.
        Raises:
          Undecodable: the image cannot be decoded.
          UserError: the image is smaller than a center_crop.
        """
        for function, arguments in self.steps:
            image = function(image, rng, *arguments)
        return np.ascontiguousarray(pixels_of(image))
