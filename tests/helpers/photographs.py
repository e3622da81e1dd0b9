"""Real photographs from installed packages (scikit-image, scikit-learn), as images and JPEGs of any size."""

import functools
import io
import pathlib
import struct
import zlib

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


def oriented(image, orientation, kind="jpeg", **options):
    """Encodes one image with an EXIF orientation; see encoded."""
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(image, kind, exif=exif, **options)


def png(header, rows, *chunks):
    """Encodes a PNG by hand. header: (width, height, bits, color type). rows: their bytes. chunks: (name, bytes) before the pixels."""

    def chunk(name, data):
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    width, height, *kind = header
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + bytes([*kind, 0, 0, 0]))
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return start + b"".join(chunk(*one) for one in chunks) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(width, bits, row, *, white_is_zero=False, sample_format=1):
    """Encodes a gray TIFF of one row by hand, with numbers of `bits` bits. row: its bytes. sample_format: 1 unsigned, 2 signed, 3 float."""
    shorts = {256: width, 257: 1, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 277: 1, 278: 1, 339: sample_format}
    longs = {273: 8 + 2 + 12 * (len(shorts) + 2) + 4, 279: len(row)}  # where the pixels are, and how many bytes
    entries = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()]
    entries += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in longs.items()]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(sorted(entries, key=lambda e: e[0] + 256 * e[1])) + bytes(4) + row
