"""Encoded photographs. A Photo decodes only when pixels are needed, and only the part that is needed.

Three decoders:
- libjpeg-turbo (simplejpeg) decodes whole JPEGs. Its pixels equal Pillow's to the last bit.
- data.decode.jpeg decodes crops for training. It decodes little more than the crop.
- Pillow decodes the rest: other formats (also a PNG with the name of a JPEG), CMYK, damaged files that may still be readable.
  If Pillow fails, the image is undecodable.

open_photo opens a file that the user names in a command. Its errors are UserErrors.
"""

import io
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from bnext_jax.data.decode import jpeg
from bnext_jax.errors import UserError, one_line

WORK_BYTES = 2**30  # memory limit for decoding one image, in bytes; checked before decoding
# A scaled decode keeps at least this many times the wanted pixels per side; the result stays within one level of a full decode
# (tests/data/test_photo.py).
SHARP = 1.5
END = b"\xff\xd9"  # JPEG's last marker


class Undecodable(ValueError):
    """Raised for an image that cannot be decoded; the message says why."""


def _ended(data):
    """Returns whether a file has JPEG's last marker at its end, before any zeros and line ends; a truncated JPEG has not."""
    return data.endswith(END) or data[-64:].rstrip(b"\0\n\r ").endswith(END)


class Photo:
    """One encoded image. The constructor reads the header and decodes no pixels.

    Args:
      encoded: the bytes of an image file.
    Attributes:
      height: rows, in pixels.
      width: columns, in pixels.
    Raises:
      Undecodable: Pillow does not know the format of the bytes.
    """

    def __init__(self, encoded: bytes) -> None:
        self._data = encoded
        self._jpeg = jpeg.read_header(encoded) if _ended(encoded) else None
        self._layout = jpeg.layout(self._jpeg)
        if self._jpeg:
            self.height, self.width = self._jpeg.height, self._jpeg.width
        else:
            self.width, self.height = self._pillow(lambda image: image.size)

    def _pillow(self, use: Callable[[Image.Image], Any]) -> Any:
        """Opens the image with Pillow and returns use(image). Any error becomes Undecodable."""
        try:
            with Image.open(io.BytesIO(self._data)) as image:
                return use(image)
        except Undecodable:
            raise
        except UnidentifiedImageError as error:
            raise Undecodable("its bytes are not in a known image format") from error
        except Exception as error:  # damaged files of many formats: OSError, SyntaxError, ValueError, struct.error, ...
            raise Undecodable(one_line(error, 200)) from error

    def _limit(self, needed):
        if needed > WORK_BYTES:
            raise Undecodable(
                f"decoding its {self.height}x{self.width} pixels would take {needed / 2**30:.1f} GiB, more than {WORK_BYTES / 2**30:.0f}"
            )

    def _convert(self, image):
        self._limit((4 + 3) * self.height * self.width)  # 4 bytes a pixel for Pillow's copy, 3 for ours
        return np.asarray(image.convert("RGB"))

    def _decode(self, shift):
        """Decodes the whole image, with each side divided by 2^shift (rounded up)."""
        if self._jpeg is None:
            return self._pillow(self._convert)
        coefficients = 2 * 3 * self.height * self.width if self._jpeg.progressive else 0
        height, width = (math.ceil(side / 2**shift) for side in (self.height, self.width))
        self._limit(coefficients + 3 * height * width)
        least = (height, width) if shift else (0, 0)
        try:
            return simplejpeg.decode_jpeg(self._data, strict=False, min_height=least[0], min_width=least[1], min_factor=1)
        except ValueError:
            return self._pillow(self._convert)

    def _rectangle(self, top, left, height, width):
        """Decodes only a rectangle, exact up to single levels of 255. Returns None where the whole image must be decoded instead."""
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
          uint8 [height, width, 3], Pillow's pixels. A gray image is repeated on three channels.
        Raises:
          Undecodable: the image is damaged, or decoding it would take more than WORK_BYTES.
        """
        return self._decode(0)

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
        shift = 0
        if self._jpeg is not None:
            room = min(height / out_height, width / out_width)
            most = max(0, min(3, int(math.log2(room / SHARP)))) if room >= SHARP else 0
            if fast:
                shift = most
            else:
                while shift < most and 3 * self.height * self.width >> 2 * shift > WORK_BYTES:
                    shift += 1
        pixels = self._rectangle(top, left, height, width) if fast and not shift else None
        if pixels is not None:
            return pixels, 0.0, 0.0, float(height), float(width)
        scale = 2.0**shift
        return self._decode(shift), top / scale, left / scale, height / scale, width / scale


def open_photo(path: os.PathLike | str) -> Image.Image:
    """Opens a photo as an RGB image of Pillow, turned upright by its EXIF orientation.

    Raises:
      UserError: the file does not exist, it is not an image, or the range of its pixels is unknown.
    """
    try:
        with Image.open(path) as photo:  # cameras record in EXIF how they were held
            return _eight_bits(path, ImageOps.exif_transpose(photo)).convert("RGB")
    except UserError:  # UserError is a ValueError; its message is already right
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not a readable image: {error}") from error
    except OSError as error:  # Pillow also raises it for a truncated image
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _eight_bits(path: os.PathLike | str, photo: Image.Image) -> Image.Image:
    """Returns a photo that Pillow converts to RGB correctly. Drops the lower 8 bits of 16-bit gray, which Pillow would clip instead."""
    if photo.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.mode in ("I", "F"):
        raise UserError(f"{path} has pixels of {photo.mode}, 32 bits each, and their range is unknown; save it with 8 bits per channel")
    return photo
