"""Encoded photographs, decoded as late and as little as possible.

JPEGs go through libjpeg-turbo (simplejpeg), which gives Pillow's pixels to the last bit; everything that it cannot do (CMYK, PNG under
a JPEG's name, damaged files that may still be readable) goes through Pillow, whose verdict is final.
"""

import dataclasses
import io
import math

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

WORK_BYTES = 2**30  # what decoding one image may take; more is refused before it is tried
BLOCK = 16  # pixels that the coarsest blocks of a JPEG span
CHROMA = 2  # rows that interpolating colour looks ahead
SHARP = 1.5  # a scaled decode keeps this many times the pixels that are wanted: within one level of the full one (tests/test_photo.py)
START, SCAN, END = 0xD8, 0xDA, b"\xff\xd9"  # JPEG's markers
FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # start of frame -> progressive; other kinds are left to Pillow


class Undecodable(ValueError):
    """An image that cannot be decoded; the message says why."""


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """What a JPEG's header says.

    height, width: pixels. height_at: where the height stands in the file. sequential: whether its rows lie in the file from top
    to bottom, so that decoding can stop after any of them.
    """

    height: int
    width: int
    height_at: int
    sequential: bool
    progressive: bool


def read_header(data):
    """The Jpeg of encoded bytes; None where they are not a JPEG of 1 or 3 components of 8 bits whose end is there."""
    if data[:2] != bytes((0xFF, START)) or (not data.endswith(END) and not data[-64:].rstrip(b"\0\n\r ").endswith(END)):
        return None
    at, frame = 2, None
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # a filling byte
            at += 1
            continue
        if marker in FRAMES:
            precision, components = data[at + 4], data[at + 9]
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            if precision != 8 or components not in (1, 3) or not height or not width:
                return None
            frame = height, width, at + 5, components, FRAMES[marker]
        if marker == SCAN:
            if frame is None:
                return None
            height, width, height_at, components, progressive = frame
            return Jpeg(height, width, height_at, not progressive and data[at + 4] == components, progressive)
        at += 2 + length
    return None


class Photo:
    """One encoded image.

    Attributes:
      height, width: pixels.
    Raises:
      Undecodable: the bytes are no image that Pillow knows.
    """

    def __init__(self, encoded):
        self._data = encoded
        self._jpeg = read_header(encoded)
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
            raise Undecodable(" ".join(str(error).split())[:200] or type(error).__name__) from error

    def _limit(self, needed):
        if needed > WORK_BYTES:
            raise Undecodable(
                f"decoding its {self.height}x{self.width} pixels would take {needed / 2**30:.1f} GiB, more than {WORK_BYTES / 2**30:.0f}"
            )

    def _convert(self, image):
        self._limit((4 + 3) * self.height * self.width)  # Pillow's own copy and ours
        return np.asarray(image.convert("RGB"))

    def _decode(self, rows, shift, fast):
        """The first `rows` rows (or more), every side divided by 2^shift. fast: colour is repeated, not interpolated."""
        jpeg = self._jpeg
        if jpeg is None:
            return self._pillow(self._convert)
        data = self._data
        if jpeg.sequential:
            rows = min(-(-(rows + CHROMA) // BLOCK) * BLOCK, jpeg.height)
            if rows < jpeg.height:  # a file that says it is less high is read no further
                data = bytearray(data)
                data[jpeg.height_at : jpeg.height_at + 2] = rows.to_bytes(2)
        else:
            rows = jpeg.height
        coefficients = 2 * 3 * jpeg.height * jpeg.width if jpeg.progressive else 0  # kept until the last scan
        self._limit(coefficients + 3 * (rows >> shift) * (jpeg.width >> shift))
        height, width = (math.ceil(side / 2**shift) for side in (rows, jpeg.width))
        try:
            return simplejpeg.decode_jpeg(
                data, fastupsample=fast, strict=False, min_height=height if shift else 0, min_width=width if shift else 0,
                min_factor=1,
            )  # fmt: skip
        except ValueError:
            return self._pillow(self._convert)

    def pixels(self):
        """uint8 [height, width, 3], as Pillow decodes it; grey is repeated on three channels. Raises Undecodable."""
        return self._decode(self.height, 0, False)

    def region(self, top, left, height, width, *, out_height, out_width, fast):
        """At least a rectangle of the image, perhaps at a half, a quarter or an eighth of its size.

        Args:
          top, left, height, width: the rectangle. out_height, out_width: what it will be resized to.
          fast: scale wherever that keeps SHARP times the wanted pixels; otherwise only where the full image would take too much memory.
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
        pixels = self._decode(math.ceil(top + height), shift, fast)
        scale = 2.0**shift
        return pixels, top / scale, left / scale, height / scale, width / scale
