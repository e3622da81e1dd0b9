"""Transforms of one image, written on one line of the config: "random_resized_crop(224)|flip|randaugment(rand-m7-mstd0.5-inc1)".

random_resized_crop(s)  a rectangle of 8 to 100 % of the area and a ratio of 3/4 to 4/3, resized to s x s: bicubic, antialiased
flip                    mirrored left to right with probability 1/2
randaugment(text)       timm's policies, see data.augment.randaugment
resize(s)               Pillow's bicubic with antialiasing, shorter side to s, longer side int(s * long / short)
center_crop(s)          s x s, offset = round half to even of (size - s)/2
pad_crop(p)             zero-pad p pixels on all sides, then a random crop of the original size

An image comes as uint8 [H,W,3] or as data.decode.photo.Photo. Chance is a random.Random of its own for each image, of which only
random() is used: its numbers are the same in every version of Python.
"""

import math
import re

import numpy as np
from PIL import Image

from bnext_jax.data.augment import kernels, operations
from bnext_jax.data.augment.randaugment import RandAugment
from bnext_jax.data.decode.photo import WORK_BYTES, Photo, Undecodable
from bnext_jax.errors import UserError

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
TRIES = 10
MIRRORED = 0.5
OBLONG = 8  # a resized image of more than so many crops is not made whole


def _size(image):
    return (image.height, image.width) if isinstance(image, Photo) else image.shape[:2]


def _pixels(image):
    return image.pixels() if isinstance(image, Photo) else image


def _region(image, box, target, *, fast):
    """(pixels, top, left, height, width): what is needed to resize a rectangle to `target`; see Photo.region."""
    if isinstance(image, Photo):
        return image.region(*box, out_height=target[0], out_width=target[1], fast=fast)
    return np.ascontiguousarray(image), *map(float, box)


def draw_box(height, width, rng):
    """A random rectangle (top, left, height, width) of an image, in pixels.

    Ten times an area of 8 to 100 %, uniform, and a ratio width / height of 3/4 to 4/3, log-uniform, are drawn, both sides rounded, until
    they fit, then their place. Else the largest central rectangle whose ratio is within the bounds.
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


def random_resized_crop(image, rng, size, chance=0.0):
    """An image -> uint8 [size,size,3], see draw_box; mirrored left to right with a chance, as by flip behind it."""
    pixels, top, left, height, width = _region(image, draw_box(*_size(image), rng), (size, size), fast=True)
    return kernels.resample(pixels, top, left, height, width, size, size, chance > 0 and rng.random() < chance)


def _resized_size(height, width, size):
    other = int(size * max(height, width) / min(height, width))
    return (other, size) if width <= height else (size, other)


def _resized(image, target, window):
    """The window (top, left, height, width) of an image resized to `target` (height, width): Pillow's pixels.

    Pillow chooses the order of its two passes by the size of the result, and the order decides roundings: so the whole is resized and
    then cut, except where the window is a small part of it.
    """
    top, left, out_height, out_width = window
    if 3 * out_height * out_width > WORK_BYTES:
        raise Undecodable(f"resized to {target[0]}x{target[1]} pixels it would take more than {WORK_BYTES / 2**30:.0f} GiB")
    pixels, _, _, height, width = _region(image, (0, 0, *_size(image)), target, fast=False)
    whole = Image.fromarray(pixels)
    if target[0] * target[1] <= OBLONG * out_height * out_width:
        resized = np.asarray(whole.resize(target[::-1], Image.Resampling.BICUBIC))
        return resized[top : top + out_height, left : left + out_width]
    down, across = height / target[0], width / target[1]  # pixels of the image for one of the result
    box = left * across, top * down, min((left + out_width) * across, width), min((top + out_height) * down, height)
    return np.asarray(whole.resize((out_width, out_height), Image.Resampling.BICUBIC, box=box))


def resize(image, rng, size):
    """An image -> uint8, the shorter side `size` pixels long. Raises Undecodable where the result would not fit into memory."""
    del rng
    target = _resized_size(*_size(image), size)
    return _resized(image, target, (0, 0, *target))


def _center(height, width, size):
    """(top, left) of a central square. Raises UserError for a smaller image."""
    if min(height, width) < size:
        raise UserError(f"center_crop({size}) meets an image of {height}x{width} pixels; put a resize before it")
    return round((height - size) / 2), round((width - size) / 2)


def center_crop(image, rng, size):
    """An image -> uint8 [size,size,3]. Raises UserError for a smaller image."""
    del rng
    image = _pixels(image)
    top, left = _center(*image.shape[:2], size)
    return image[top : top + size, left : left + size]


def resize_center_crop(image, rng, short, size):
    """resize(short), then center_crop(size), computing only what the crop keeps."""
    del rng
    target = _resized_size(*_size(image), short)
    return _resized(image, target, (*_center(*target, size), size, size))


def pad_crop(image, rng, padding):
    """An image -> uint8 [H,W,3], moved by up to `padding` pixels each way, zeros moving in."""
    image = _pixels(image)
    height, width = image.shape[:2]
    top, left = (int(rng.random() * (2 * padding + 1)) for _ in range(2))
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    return padded[top : top + height, left : left + width]


def flip(image, rng):
    """An image -> uint8, mirrored in half of the cases."""
    image = _pixels(image)
    return operations.mirror(np.ascontiguousarray(image)) if rng.random() < MIRRORED else image


def randaugment(image, rng, policy):
    """An image -> uint8 of the same size; policy: data.augment.randaugment.RandAugment."""
    return policy(np.ascontiguousarray(_pixels(image)), rng)


def _whole(text):
    if not re.fullmatch(r"\d+", text):
        raise ValueError
    return int(text)


# name -> (function, what makes its argument of the text in brackets; None = it takes none)
OPERATIONS = {
    "random_resized_crop": (random_resized_crop, _whole),
    "flip": (flip, None),
    "randaugment": (randaugment, RandAugment),
    "resize": (resize, _whole),
    "center_crop": (center_crop, _whole),
    "pad_crop": (pad_crop, _whole),
}


class Transform:
    """The operations of one line, in order.

    Attributes:
      steps: [(function, arguments)], neighbours that are done together made one.
    Args:
      line: operations joined by "|"; "" leaves the image as it is.
    Raises:
      UserError: an operation that does not exist, or the wrong argument.
    """

    def __init__(self, line):
        self.steps = []
        for part in filter(None, (piece.strip() for piece in line.split("|"))):
            match = re.fullmatch(r"(\w+)(?:\((.*)\))?", part)
            name = match and match[1]
            if name not in OPERATIONS:
                raise UserError(f"transform {part!r} in {line!r} is unknown; operations: {', '.join(OPERATIONS)}")
            function, make = OPERATIONS[name]
            try:
                arguments = [make(match[2].strip())] if make else []
            except UserError:
                raise
            except (ValueError, AttributeError) as error:  # no number, no brackets
                raise UserError(f"transform {part!r} in {line!r} takes one whole number") from error
            if not make and match[2] is not None:
                raise UserError(f"transform {part!r} in {line!r} takes no argument")
            if function is center_crop and self.steps and self.steps[-1][0] is resize:
                function, arguments = resize_center_crop, self.steps.pop()[1] + arguments
            elif function is flip and self.steps and self.steps[-1][0] is random_resized_crop:
                function, arguments = random_resized_crop, [*self.steps.pop()[1], MIRRORED]
            self.steps.append((function, arguments))

    def __call__(self, image, rng):
        """uint8 [H,W,3] or Photo, random.Random -> uint8 [H',W',3]. Raises Undecodable."""
        for function, arguments in self.steps:
            image = function(image, rng, *arguments)
        return np.ascontiguousarray(_pixels(image))
