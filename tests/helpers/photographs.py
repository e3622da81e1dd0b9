"""Real photographs from installed packages (scikit-image, scikit-learn), as images and JPEGs of any size."""

import functools
import io
import pathlib

import numpy as np
import skimage
import sklearn
from PIL import Image, ImageOps

SKIMAGE, SKLEARN = (pathlib.Path(module.__file__).parent for module in (skimage, sklearn))
FILES = [
    SKIMAGE / "data" / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")
]
FILES += [SKLEARN / "datasets/images" / name for name in ("china.jpg", "flower.jpg")]


@functools.cache
def images(width=500, height=375):
    """Returns all photographs, cropped and resized to one size, as Pillow images."""
    return [ImageOps.fit(Image.open(path).convert("RGB"), (width, height), Image.Resampling.BICUBIC) for path in FILES]


def encoded(image, kind="jpeg", **options):
    """Encodes one image and returns its bytes. options: of Pillow's save."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def jpegs(width=500, height=375, quality=90):
    """Returns all photographs as JPEGs of one size."""
    return [encoded(image, quality=quality) for image in images(width, height)]


def levels(found, expected):
    """Returns the mean absolute difference of two images, in levels of 0..255."""
    return float(np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int)).mean())


# All photographs as JPEGs of 40x30 pixels.
TINY = [encoded(image.resize((40, 30))) for image in images()]
