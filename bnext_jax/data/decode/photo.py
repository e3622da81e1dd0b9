"""Encoded photographs, decoded as late and as little as possible.

Whole JPEGs go through libjpeg-turbo (simplejpeg), which gives Pillow's pixels to the last bit, crops for training through data.decode.jpeg,
which decodes little more than them; everything that neither can do (CMYK, PNG under a JPEG's name, damaged files that may still be
readable) goes through Pillow, whose verdict is final.
"""

import io
import math

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from bnext_jax.data.decode import jpeg
from bnext_jax.errors import one_line

WORK_BYTES = 2**30  # what decoding one image may take; more is refused before it is tried
SHARP = 1.5  # a scaled decode keeps this many times the pixels that are wanted: within one level of the full one (tests/data/test_photo.py)
END = b"\xff\xd9"  # JPEG's last marker


class Undecodable(ValueError):
    """An image that cannot be decoded; the message says why."""


def _ended(data):
    """Whether a file's end is there, zeros and line ends behind it aside: a truncated JPEG has none."""
    return data.endswith(END) or data[-64:].rstrip(b"\0\n\r ").endswith(END)


class Photo:
    """One encoded image.

    Attributes:
      height, width: pixels.
    Raises:
      Undecodable: the bytes are no image that Pillow knows.
    """

    def __init__(self, encoded):
        self._data = encoded
        self._jpeg = jpeg.read_header(encoded) if _ended(encoded) else None
        self._layout = jpeg.layout(self._jpeg)
        if self._jpeg:
            self.height, self.width = self._jpeg.height, self._jpeg.width
        else:
            self.width, self.height = self._pillow(lambda image: image.size)

    def _pillow(self, use):
        """use(image) of the image opened by Pillow, whose many kinds of error become one."""
        try:
            with Image.open(io.BytesIO(self._data)) as image:
                return use(image)
        except Undecodable:
            raise
        except UnidentifiedImageError as error:
            raise Undecodable("its bytes are no image that is known") from error
        except Exception as error:  # damaged files of many formats: OSError, SyntaxError, ValueError, struct.error, ...
            raise Undecodable(one_line(error, 200)) from error

    def _limit(self, needed):
        if needed > WORK_BYTES:
            raise Undecodable(
                f"decoding its {self.height}x{self.width} pixels would take {needed / 2**30:.1f} GiB, more than {WORK_BYTES / 2**30:.0f}"
            )

    def _convert(self, image):
        self._limit((4 + 3) * self.height * self.width)  # Pillow's own copy and ours
        return np.asarray(image.convert("RGB"))

    def _decode(self, shift):
        """The whole image, every side divided by 2^shift."""
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
        """The pixels of a rectangle alone, up to single levels, or None where libjpeg-turbo must decode everything."""
        if self._layout is None:
            return None
        self._limit(7 * height * width)  # planes, and the colours made of them
        try:
            return jpeg.region(self._data, self._layout, top, left, height, width)
        except ValueError:  # damaged: what libjpeg-turbo and Pillow make of it counts
            return None

    def pixels(self):
        """uint8 [height, width, 3], as Pillow decodes it; grey is repeated on three channels. Raises Undecodable."""
        return self._decode(0)

    def region(self, top, left, height, width, *, out_height, out_width, fast):
        """At least a rectangle of the image, perhaps at a half, a quarter or an eighth of its size.

        Args:
          top, left, height, width: the rectangle, whole numbers. out_height, out_width: what it will be resized to.
          fast: nothing but the rectangle where that is possible, and scaled wherever that keeps SHARP times the wanted pixels; otherwise
            Pillow's pixels, and scaled only where the full image would take too much memory.
        Returns:
          (uint8 [H,W,3], top, left, height, width): the rectangle in that array's pixels, floats.
        Raises:
          Undecodable.
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
