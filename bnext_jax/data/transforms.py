"""Transforms of one uint8 image, written on one line of the config: "pad_crop(4)|flip", "resize(16)|center_crop(16)".

resize(s)       Pillow's bicubic with antialiasing, shorter side to s, longer side int(s * long / short)
center_crop(s)  s x s, offset = round half to even of (size - s)/2
pad_crop(p)     zero-pad p pixels on all sides, then a random crop of the original size
flip            mirrored left to right with probability 1/2
"""

import io
import re

import numpy as np
from PIL import Image

from bnext_jax.errors import UserError


def decode(encoded):
    """Encoded bytes (PNG, JPEG) -> uint8 [H,W,3]; grey images are repeated on three channels."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def resize(image, rng, size):
    """uint8 [H,W,3] -> the shorter side `size` pixels long."""
    del rng
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    other = int(size * long / short)
    target = (size, other) if width <= height else (other, size)  # Pillow wants (width, height)
    return np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC))


def center_crop(image, rng, size):
    """uint8 [H,W,3] -> [size,size,3]. Raises UserError for a smaller image."""
    del rng
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise UserError(f"center_crop({size}) meets an image of {height}x{width} pixels; put a resize before it")
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


def pad_crop(image, rng, padding):
    """uint8 [H,W,3] -> [H,W,3], moved by up to `padding` pixels each way, zeros moving in."""
    height, width = image.shape[:2]
    top, left = rng.integers(0, 2 * padding + 1, 2)
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    return padded[top : top + height, left : left + width]


def flip(image, rng):
    """uint8 [H,W,3] -> the same, mirrored in half of the cases."""
    return image[:, ::-1] if rng.random() < 0.5 else image


OPERATIONS = {"resize": (resize, 1), "center_crop": (center_crop, 1), "pad_crop": (pad_crop, 1), "flip": (flip, 0)}


class Transform:
    """The operations of one line, in order.

    Args:
      line: operations joined by "|"; "" leaves the image as it is.
    Raises:
      UserError: an operation that does not exist, or the wrong number of arguments.
    """

    def __init__(self, line):
        self.steps = []
        for part in filter(None, (piece.strip() for piece in line.split("|"))):
            match = re.fullmatch(r"(\w+)(?:\(([\d, ]*)\))?", part)
            name = match and match[1]
            if name not in OPERATIONS:
                raise UserError(f"transform {part!r} in {line!r} is unknown; operations: {', '.join(OPERATIONS)}")
            function, count = OPERATIONS[name]
            arguments = [int(text) for text in re.findall(r"\d+", match[2] or "")]
            if len(arguments) != count:
                raise UserError(f"transform {part!r} in {line!r} takes {count} whole numbers")
            self.steps.append((function, arguments))

    def __call__(self, image, rng):
        """uint8 [H,W,3], numpy Generator -> uint8 [H',W',3]."""
        for function, arguments in self.steps:
            image = function(image, rng, *arguments)
        return np.ascontiguousarray(image)
