"""Encoded photographs. A Photo decodes only when pixels are needed, and only the part that is needed.

Three decoders:
- libjpeg-turbo (simplejpeg) decodes whole JPEGs. Its pixels equal Pillow's to the last bit.
- data.decode.jpeg decodes crops for training. It decodes little more than the crop.
- Pillow decodes the rest: other formats (also a PNG with the name of a JPEG), CMYK, damaged files that may still be readable.
  If Pillow fails, the image is undecodable. data.decode.reading has the rules for all kinds of pixels.

use_photo reads a file that the user names in a command. Its errors are UserErrors.
"""

import contextlib
import functools
import io
import logging
import math
import os
import pathlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from bnext_jax.data.decode import jpeg, reading
from bnext_jax.data.decode.reading import Undecodable
from bnext_jax.errors import UserError, one_line
from bnext_jax.io import buckets
from bnext_jax.io.paths import to_path

log = logging.getLogger(__name__)
T = TypeVar("T")
WORK_BYTES = 2**30  # memory limit for decoding one image, in bytes; checked before decoding
# A scaled decode keeps at least this many times the wanted pixels per side; the result stays within one level of a full decode
# (tests/data/test_photo.py).
SHARP = 1.5
END = b"\xff\xd9"  # JPEG's last marker


def _ended(data):
    """Returns whether a file has JPEG's last marker at its end, before any zeros and line ends; a truncated JPEG has not."""
    return data.endswith(END) or data[-64:].rstrip(b"\0\n\r ").endswith(END)


class Photo:
    """One encoded image. The constructor reads the header and decodes no pixels.

    Args:
      encoded: the bytes of an image file.
      upright: True = the image is turned as its EXIF orientation says. False = its pixels are as they are stored.
    Attributes:
      height: rows, in pixels, of the turned image.
      width: columns, in pixels, likewise.
    Raises:
      Undecodable: Pillow does not know the format of the bytes, or the pixels have no reading (see data.decode.reading).
    """

    def __init__(self, encoded: bytes, *, upright: bool = False) -> None:
        self._data = encoded
        self._jpeg = jpeg.read_header(encoded) if _ended(encoded) else None
        self._layout = jpeg.layout(self._jpeg)
        self._stored = (self._jpeg.height, self._jpeg.width) if self._jpeg else self._pillow(reading.header)
        self._turn = self.orientation if upright else reading.UPRIGHT
        self.height, self.width = self._stored[:: -1 if self._turn >= reading.SIDEWAYS else 1]

    @functools.cached_property
    def orientation(self) -> int:
        """How the stored pixels lie: the EXIF orientation, 1 to 8. 1 = upright, also if the EXIF data are missing or broken."""
        if self._jpeg:
            return reading.jpeg_orientation(self._jpeg.segments)
        return self._pillow(lambda image: reading.orientation(image, self._data))

    def _pillow(self, use: Callable[[Image.Image], T]) -> T:
        """Opens the image with Pillow and returns use(image). Any error becomes Undecodable."""
        try:
            with Image.open(io.BytesIO(self._data)) as image:
                return use(image)
        except Undecodable:
            raise
        except UnidentifiedImageError as error:
            raise Undecodable("its bytes are not in a known image format; save it as JPEG or PNG") from error
        except Exception as error:  # damaged files of many formats: OSError, SyntaxError, ValueError, struct.error, ...
            raise Undecodable(one_line(error, 200)) from error

    def _limit(self, needed):
        if needed > WORK_BYTES:
            raise Undecodable(
                f"decoding its {self.height}x{self.width} pixels would take {needed / 2**30:.1f} GiB, more than {WORK_BYTES / 2**30:.0f}"
            )

    def _bytes(self):
        """Bytes of memory for one decoded pixel; a turn makes a copy."""
        return 3 if self._turn == reading.UPRIGHT else 6

    def _convert(self, image):
        self._limit((4 + 3) * self.height * self.width)  # 4 bytes a pixel for Pillow's copy, 3 for ours
        pixels = reading.rgb(image)
        if pixels.shape[:2] != tuple(self._stored):
            raise Undecodable(
                f"its header says {self._stored[0]}x{self._stored[1]} pixels, its data are {pixels.shape[0]}x{pixels.shape[1]}"
            )
        return pixels

    def _decode(self, shift):
        """Decodes the whole image as it is stored, with each side divided by 2^shift (rounded up)."""
        if self._jpeg is None:
            return self._pillow(self._convert)
        coefficients = 2 * 3 * self.height * self.width if self._jpeg.progressive else 0
        height, width = (math.ceil(side / 2**shift) for side in self._stored)
        self._limit(coefficients + self._bytes() * height * width)
        least = (height, width) if shift else (0, 0)
        try:
            return simplejpeg.decode_jpeg(self._data, strict=False, min_height=least[0], min_width=least[1], min_factor=1)
        except ValueError:
            return self._pillow(self._convert)

    def _rectangle(self, top, left, height, width):
        """Decodes a rectangle of the stored image, exact up to single levels of 255. Returns None where the whole image must be decoded."""
        if self._layout is None:
            return None
        self._limit(7 * height * width)  # the planes and the RGB pixels
        try:
            return jpeg.region(self._data, self._layout, top, left, height, width)
        except ValueError:  # damaged data: let libjpeg-turbo and Pillow try
            return None

    def pixels(self) -> np.ndarray:
        """Decodes the whole image.

        Returns:
          uint8 [height, width, 3], Pillow's pixels by the rules of data.decode.reading. A gray image is repeated on three channels.
        Raises:
          Undecodable: the image is damaged, or decoding it would take more than WORK_BYTES.
        """
        return reading.turned(self._decode(0), self._turn)

    def region(
        self, top: int, left: int, height: int, width: int, *, out_height: int, out_width: int, fast: bool
    ) -> tuple[np.ndarray, float, float, float, float]:
        """Decodes at least a rectangle of the image, at full size or at 1/2, 1/4 or 1/8 of it.

        Args:
          top: first row of the rectangle, in pixels.
          left: first column.
          height: rows of the rectangle.
          width: columns of the rectangle.
          out_height: rows that the caller will resize the rectangle to.
          out_width: columns that the caller will resize the rectangle to.
          fast: True: decodes only the rectangle where possible, and scales down wherever SHARP times the wanted pixels per side remain.
            False: gives Pillow's pixels, and scales down only where the full image would take more than WORK_BYTES.
        Returns:
          (pixels, top, left, height, width): uint8 [H,W,3], and the rectangle in the coordinates of that array, as floats.
        Raises:
          Undecodable: the image is damaged, or decoding it would take more than WORK_BYTES.
        """
        wanted = reading.swapped((0, 0, out_height, out_width), self._turn)[2:]
        box = reading.swapped(reading.flipped((top, left, height, width), (self.height, self.width), self._turn), self._turn)
        pixels, box = self._stored_region(box, wanted, fast)
        pixels = reading.turned(pixels, self._turn)
        return pixels, *reading.flipped(reading.swapped(box, self._turn), pixels.shape, self._turn)

    def _stored_region(self, box, wanted, fast):
        """Does the work of `region` for the stored image. wanted: (rows, columns). Returns (pixels, box in their coordinates)."""
        top, left, height, width = box
        shift = 0
        if self._jpeg is not None:
            room = min(height / wanted[0], width / wanted[1])
            most = max(0, min(3, int(math.log2(room / SHARP)))) if room >= SHARP else 0
            if fast:
                shift = most
            else:
                while shift < most and self._bytes() * self.height * self.width >> 2 * shift > WORK_BYTES:
                    shift += 1
        pixels = self._rectangle(top, left, height, width) if fast and not shift else None
        if pixels is not None:
            return pixels, (0.0, 0.0, float(height), float(width))
        scale = 2.0**shift
        return self._decode(shift), (top / scale, left / scale, height / scale, width / scale)


def use_photo(path: os.PathLike | str, use: Callable[[Photo], T], *, upright: bool = True) -> T:
    """Reads a photo and uses it.

    Args:
      path: an image file that the user named.
      use: takes the Photo.
      upright: as in Photo. If False, a photo that has a turn in its EXIF data is named in the log.
    Returns:
      the result of `use`.
    Raises:
      UserError: the file cannot be read or decoded.
    """
    try:
        # On a disk, a photo's name may have any bytes.
        with buckets.local_copy(to_path(path)) if "://" in os.fspath(path) else contextlib.nullcontext(pathlib.Path(path)) as file:
            encoded = file.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        photo = Photo(encoded, upright=upright)
        if not upright and photo.orientation != reading.UPRIGHT:
            log.warning(
                "%s is not turned upright (EXIF orientation %d): the network was trained on photos as they are stored",
                path, photo.orientation,
            )  # fmt: skip
        return use(photo)
    except Undecodable as error:
        raise UserError(f"{path} is not a readable image: {error}") from error
