"""The one way to read an image that Pillow has opened: its pixels as 8-bit RGB, and the turn that its EXIF data ask for.

- The pixels are those of Pillow's conversion to RGB, with which published accuracies were measured (torchvision reads files so, too).
  Transparency is dropped: a transparent pixel has the color that is stored below it.
- Gray of 12 or 16 bits keeps its upper 8 bits. Pillow would make almost all of it white.
- Of several images in one file (animations, pages), the first counts.
- Numbers of 32 bits and signed numbers have no known range, so they have no reading.
"""

import contextlib
from collections.abc import Iterable

import numpy as np
from PIL import ExifTags, Image

UPRIGHT, TURNS = 1, range(2, 9)  # EXIF orientations: nothing to do; one of seven turns
SIDEWAYS = 5  # this orientation and those behind it exchange rows and columns
ROWS, COLUMNS = (3, 4, 7, 8), (2, 3, 6, 7)  # orientations that reverse the order of the rows, and of the columns
WIDE_GRAY = ("PNG", "TIFF", "JPEG2000", "PPM")  # formats whose gray of more than 8 bits reaches from black to white
PNG_METADATA = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # chunks of a PNG that can tell its orientation
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # how a JPEG's APP1 segments begin
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF
WHITE_IS_ZERO, SIGNED = 0, 2  # values of the last two


class Undecodable(ValueError):
    """Raised for an image that cannot be decoded; the message says why."""


def _is_wide_gray(image):
    return image.format in WIDE_GRAY and (image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"))


def check(image: Image.Image) -> None:
    """Raises Undecodable for an image without a reading. Decodes no pixels."""
    if image.mode.startswith(("I", "F")) and not _is_wide_gray(image):
        kind = "floating-point numbers" if image.mode.startswith("F") else "whole numbers of more than 8 bits"
        raise Undecodable(f"its pixels are {kind} (mode {image.mode}), and their range is unknown; save it with 8 bits per channel")
    if image.format == "TIFF" and SIGNED in image.tag_v2.get(SAMPLE_FORMAT, ()):  # type: ignore[attr-defined]
        raise Undecodable("its pixels are signed numbers, and their range is unknown; save it with 8 bits per channel")


def rgb(image: Image.Image) -> np.ndarray:
    """Decodes an image: -> uint8 [height, width, 3]. Raises any exception if it is damaged."""
    check(image)
    image.load()
    if not _is_wide_gray(image):
        image.info.pop("transparency", None)  # only to convert it too, which Pillow cannot for some palettes
        return np.asarray(image.convert("RGB"))
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    gray = (np.asarray(image) >> (tags.get(BITS, (16,))[0] - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        gray = ~gray
    return np.repeat(gray[:, :, None], 3, axis=2)


def _exif_orientation(image):
    """The orientation in the EXIF or XMP data, 1 to 8. 1 if there is none, or if the data are broken."""
    with contextlib.suppress(Exception):  # of many types
        value = image.getexif().get(ExifTags.Base.Orientation)
        return int(value) if value in TURNS else UPRIGHT
    return UPRIGHT


def header(image: Image.Image) -> tuple[int, int]:
    """Returns (height, width) of the pixels that `rgb` will return. Raises Undecodable for an image without a reading."""
    check(image)
    width, height = image.size
    if image.format == "TIFF" and ExifTags.Base.Orientation not in image.tag_v2 and _exif_orientation(image) >= SIDEWAYS:  # type: ignore[attr-defined]
        return width, height  # Pillow turns a TIFF when it decodes it. It knows of XMP's orientation only then
    return height, width


def orientation(image: Image.Image, encoded: bytes) -> int:
    """Returns how the pixels that `rgb` returns must be turned to be upright.

    Args:
      image: the image, opened from `encoded`.
      encoded: the bytes of the file.
    Returns:
      the EXIF orientation, 1 to 8; 1 = they are upright, also if the EXIF data are missing or broken, and for every TIFF: Pillow turns
      those when it decodes them.
    """
    if image.format == "TIFF":
        return UPRIGHT
    if image.format == "PNG" and not any(word in encoded for word in PNG_METADATA):
        return UPRIGHT  # to look for metadata behind the pixels, Pillow would decode the pixels
    return _exif_orientation(image)


def jpeg_orientation(segments: Iterable[tuple[int, bytes, int]]) -> int:
    """Returns the orientation of a JPEG, see `orientation`. segments: (marker, body, end) of the segments in its header."""
    bodies = [body for marker, body, _ in segments if marker == 0xE1]
    exif, xmp = ([body[len(start) :] for body in bodies if body.startswith(start)] for start in (EXIF, XMP))
    image = Image.Image()  # holds the metadata, without pixels: Pillow's rules apply, and no file is opened
    image.info = {"exif": EXIF + b"".join(exif)} if exif else {}
    image.info |= {"xmp": xmp[-1]} if xmp else {}
    return _exif_orientation(image) if image.info else UPRIGHT


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels [H,W,3] upright by their EXIF orientation, 1 to 8. The result is contiguous."""
    if orientation >= SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if orientation in ROWS else 1, :: -1 if orientation in COLUMNS else 1])


def swapped(box: tuple[float, float, float, float], orientation: int) -> tuple[float, float, float, float]:
    """Exchanges rows and columns of a rectangle (top, left, height, width), where the orientation does."""
    top, left, height, width = box
    return (left, top, width, height) if orientation >= SIDEWAYS else box


def flipped(box: tuple[float, float, float, float], shape: tuple[int, ...], orientation: int) -> tuple[float, float, float, float]:
    """Moves a rectangle (top, left, height, width) of an image of `shape` (rows, columns, ...) as the orientation's mirrors move it."""
    top, left, height, width = box
    return (
        shape[0] - top - height if orientation in ROWS else top,
        shape[1] - left - width if orientation in COLUMNS else left,
        height,
        width,
    )
