"""Decodes a rectangle of a JPEG without decoding the whole image (ITU-T T.81).

Huffman codes must be read from the first one. But data below the rectangle are not read, and only blocks that the rectangle touches are
transformed. A random crop of an ImageNet photograph takes a third of the time that libjpeg-turbo needs for the whole image.
`layout` returns None for kinds of files that this module does not support; another library must decode those.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bnext_jax.data.decode.jpeg_blocks import FOLD, to_rgb
from bnext_jax.data.decode.jpeg_codes import LONG, SHORT, SIZE, ZIGZAG, build, decode

START, SCAN = 0xD8, 0xDA  # markers
FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # start-of-frame marker -> progressive; Pillow decodes other kinds


class Layout(NamedTuple):
    """What decoding a part of a file needs. The components are Y, Cb and Cr, or only Y for a gray picture.

    Attributes:
      height: rows, in pixels.
      width: columns, in pixels.
      sampling: luma pixels per chroma pixel, (horizontally, vertically), each 1 or 2.
      quantizers: float32 [components * 64], the factors for idct.
      pairs: int64 [components], the index of each component's pair of Huffman tables.
      short: uint32 [pairs * SIZE], look-up tables, see jpeg_codes.build.
      long: uint16 [pairs * 2 * LONG], look-up tables, likewise.
      restart: MCUs between restart markers; 0: there are no markers.
      start: where the entropy-coded data begin, in bytes.
    """

    height: int
    width: int
    sampling: tuple
    quantizers: np.ndarray
    pairs: np.ndarray
    short: np.ndarray
    long: np.ndarray
    restart: int
    start: int


@functools.lru_cache(maxsize=16)
def _tables(segments: bytes, selectors: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Builds the look-up tables of the Huffman tables. Cached: building is slow, and most files have the same tables.

    Args:
      segments: bytes of all DHT segments.
      selectors: for each component, the tables that it uses: DC << 4 | AC.
    Returns:
      (pairs, short, long) as in Layout; None if the segments are broken.
    """
    tables = {}
    while segments:
        size = 17 + sum(segments[1:17])
        if len(segments) < size:
            return None
        tables[segments[0]], segments = np.frombuffer(segments[1:size], np.uint8), segments[size:]
    distinct = sorted(set(selectors))
    short, long = np.zeros((len(distinct), SIZE), np.uint32), np.zeros((len(distinct), 2, LONG), np.uint16)
    for selector, s, table in zip(distinct, short, long, strict=True):
        dc, ac = tables[selector >> 4], tables[16 + (selector & 15)]
        if not (
            build(dc[:16], dc[16:], False, table[0], s, s) and build(ac[:16], ac[16:], True, table[1], s[1 << SHORT :], s[2 << SHORT :])
        ):
            return None
    return np.array([distinct.index(s) for s in selectors]), short.reshape(-1), long.reshape(-1)


@functools.lru_cache(maxsize=256)
def _quantizers(segments: bytes, selectors: bytes) -> np.ndarray:
    """Computes the factors for idct from the quantization tables.

    Args:
      segments: bytes of all DQT segments.
      selectors: for each component, the table that it uses.
    Returns:
      float32 [components * 64].
    """
    tables = {}
    while segments:
        size = 129 if segments[0] >> 4 else 65
        table = np.frombuffer(segments[1:size], ">u2" if segments[0] >> 4 else np.uint8)
        tables[segments[0] & 15], segments = table, segments[size:]
    out = np.empty((len(selectors), 64), np.float32)
    for row, selector in zip(out, selectors, strict=True):
        row[ZIGZAG[:64]] = tables[selector]
    return (out * FOLD).astype(np.float32).reshape(-1)


class Header(NamedTuple):
    """What a JPEG's header says.

    Attributes:
      height: rows, in pixels.
      width: columns, in pixels.
      progressive: whether the image comes in several scans; its decoder keeps all coefficients until the last scan.
      segments: [(marker, body, end), ...], the complete segments up to the first scan.
    """

    height: int
    width: int
    progressive: bool
    segments: list


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yields (marker, body, end in bytes) of each segment up to the first scan; stops at a broken segment."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # any number of these bytes may precede a marker
            at += 1
            continue
        if end < at + 4 or end >= len(data):
            return
        yield marker, data[at + 4 : end], end
        if marker == SCAN:
            return
        at = end


def read_header(data: bytes) -> Header | None:
    """Reads the header of a file; None if it is not a JPEG with 1 or 3 components of 8 bits that libjpeg-turbo can decode."""
    if data[:2] != bytes((0xFF, START)):
        return None
    segments = list(_segments(data))
    marker, frame = next(((marker, body) for marker, body, _ in segments if marker in FRAMES), (0, b""))
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3):
        return None
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    return Header(height, width, FRAMES[marker], segments) if height and width else None


def layout(header: Header | None) -> Layout | None:
    """Computes what decoding a part of a file needs.

    Args:
      header: result of read_header.
    Returns:
      a Layout; None if `planes` cannot decode the file. `planes` needs a valid header, gray or YCbCr with 8 bits, one scan, Huffman
      codes, no progressive coding, and chroma with at least half of luma's resolution on each axis.
    """
    try:
        return header and _layout(header.segments)
    except (IndexError, KeyError, ValueError):  # a segment is too short, a table was never defined
        return None


def _layout(segments: list[tuple[int, bytes, int]]) -> Layout | None:
    huffman, quantization, frame, restart, transform, jfif = b"", b"", b"", 0, 1, False
    for marker, body, at in segments:  # noqa: B007  after the loop, these are the scan's
        if marker == 0xC4:
            huffman += body
        elif marker == 0xDB:
            quantization += body
        elif marker in (0xC0, 0xC1) and not frame:
            frame = body
        elif marker == 0xDD:
            restart = body[0] << 8 | body[1]
        elif marker == 0xE0:
            jfif = jfif or (body[:5] == b"JFIF\0" and len(body) >= 14)
        elif marker == 0xEE:
            transform = body[11] if body[:5] == b"Adobe" else transform
        elif not (marker == SCAN or 0xE0 < marker <= 0xEF or marker == 0xFE):  # another coding, or a second frame
            return None
    if marker != SCAN:
        return None
    bits, height, width, n = frame[0], frame[1] << 8 | frame[2], frame[3] << 8 | frame[4], frame[5]
    ids, factors, chosen = frame[6::3], frame[7::3], frame[8::3]
    if bits != 8 or not height or not width or n not in (1, 3) or len(frame) != 6 + 3 * n or len(set(ids)) < n:
        return None
    if len(body) != 4 + 2 * n or body[0] != n or body[1 : 2 * n + 1 : 2] != ids or body[2 * n + 1 :] != b"\0\x3f\0":
        return None
    sampling = (1, 1)
    if n == 3:
        sampling = factors[0] >> 4, factors[0] & 15
        if not set(sampling) <= {1, 2} or factors[1:] != b"\x11\x11" or ids == b"RGB" or not (jfif or transform == 1):
            return None
    tables = _tables(huffman, body[2 : 2 * n + 1 : 2])
    return tables and Layout(height, width, sampling, _quantizers(quantization, chosen), *tables, restart, at)


def planes(data: bytes, layout: Layout, top: int, left: int, height: int, width: int, margin: int = 4) -> list[tuple[np.ndarray, int, int]]:
    """Decodes the whole MCUs (8 or 16 pixels a side) that cover a rectangle.

    Args:
      data: bytes of the file.
      layout: result of the function `layout` for the file's header.
      top: first row of the rectangle, in pixels. The rectangle must be inside the picture.
      left: first column.
      height: rows of the rectangle.
      width: columns of the rectangle.
      margin: pixels around the rectangle that are decoded too, for chroma's neighbors; fewer at the picture's edges.
    Returns:
      [(plane, top, left), ...] for Y, Cb and Cr, or only Y. plane: uint8 [rows, columns]. top, left: where the plane begins in the
      component's own grid; a chroma pixel spans `sampling` luma pixels. If the picture's size is not a multiple of the MCU's, planes
      reach beyond the picture's edge.
    Raises:
      ValueError: the entropy-coded data are broken or end too early, or the rectangle is not inside the picture.
    """
    if not (0 <= top < top + height <= layout.height and 0 <= left < left + width <= layout.width):
        raise ValueError("The rectangle is not inside the picture.")
    wide, high = layout.sampling
    n = len(layout.pairs)
    rows, columns = -(-layout.height // (8 * high)), -(-layout.width // (8 * wide))
    y, x = max(top - margin, 0) // (8 * high), max(left - margin, 0) // (8 * wide)
    down, across = min(-(-(top + height + margin) // (8 * high)), rows) - y, min(-(-(left + width + margin) // (8 * wide)), columns) - x
    coded = len(data) - layout.start
    # A block has at least two bits. This check stops a false size in the header before memory is allocated for it.
    if ((y + down - 1) * columns + x + across) * (wide * high + n - 1) > 4 * coded:
        raise ValueError("The picture's data end too early.")
    intervals = min(-(-rows * columns // layout.restart), coded) if layout.restart else 1
    out = decode(
        np.frombuffer(data, np.uint8),
        layout.start,
        layout.restart,
        intervals,
        layout.short,
        layout.long,
        layout.pairs,
        layout.quantizers,
        wide,
        high,
        columns,
        y,
        x,
        down,
        across,
    )
    if not len(out):
        raise ValueError("The picture's data are broken.")
    size = 64 * down * across
    result = [(out[: size * wide * high].reshape(8 * high * down, 8 * wide * across), 8 * high * y, 8 * wide * x)]
    for i in range(n - 1):
        begin = size * (wide * high + i)
        result.append((out[begin : begin + size].reshape(8 * down, 8 * across), 8 * y, 8 * x))
    return result


def region(data: bytes, layout: Layout, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Decodes the colors of a rectangle.

    The arguments and errors are those of `planes`.

    Returns:
      uint8 [height, width, 3]; equals libjpeg's pixels up to single levels of 255.
    """
    (luma, luma_top, luma_left), *chroma = planes(data, layout, top, left, height, width)
    luma = luma[top - luma_top : top - luma_top + height, left - luma_left : left - luma_left + width]
    if not chroma:
        return np.repeat(luma[:, :, None], 3, 2)
    wide, high = layout.sampling
    (blue, first_row, first_column), (red, _, _) = chroma
    last_row, last_column = -(-layout.height // high) - 1 - first_row, -(-layout.width // wide) - 1 - first_column
    return to_rgb(luma, blue, red, wide, high, top - first_row * high, left - first_column * wide, last_row, last_column)
