"""Part of a JPEG, decoded without the rest of it.

Huffman codes can only be read from the first on, but what lies below the wanted rectangle is not read at all, and only blocks that it
touches are transformed; decoding a random crop of an ImageNet photograph takes a third of the time of the whole image in libjpeg-turbo.
`layout` gives None for files that are not plain ones; another library must decode those. After ITU-T T.81.
"""

import functools
from typing import NamedTuple

import numpy as np

from bnext_jax.data.decode.jpeg_blocks import FOLD, to_rgb
from bnext_jax.data.decode.jpeg_codes import LONG, SHORT, SIZE, ZIGZAG, build, decode

START, SCAN = 0xD8, 0xDA  # markers
FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}  # start of frame -> progressive; other kinds are left to Pillow


class Layout(NamedTuple):
    """What a file's header says. Its planes are Y, Cb, Cr, or Y alone in a grey picture."""

    height: int  # pixels
    width: int
    sampling: tuple  # luma pixels that a chroma pixel spans, across and down: 1 or 2
    quantizers: np.ndarray  # float32 [components * 64]: _idct's factors
    pairs: np.ndarray  # int64 [components]: which pair of Huffman tables
    short: np.ndarray  # uint32 [pairs * SIZE]
    long: np.ndarray  # uint16 [pairs * 2 * LONG]
    restart: int  # MCUs between restart markers, 0: there are none
    start: int  # where the entropy-coded data begin, bytes


@functools.lru_cache(maxsize=16)
def _tables(segments, selectors):
    """Look-up tables of Huffman tables: (pairs, short, long) as in Layout; most files share theirs, and building them takes a while.

    Args:
      segments: bytes of all DHT segments. selectors: for each component, which tables it uses: DC << 4 | AC.
    Returns:
      None where the segments are broken.
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
def _quantizers(segments, selectors):
    """Factors of _idct, float32 [components * 64], from bytes of all DQT segments; selectors: for each component, which table it uses."""
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

    progressive: it comes in several scans, so that all coefficients are kept until the last one. segments: [(marker, body, end)], those up
    to the first scan as far as they are whole.
    """

    height: int  # pixels
    width: int
    progressive: bool
    segments: list


def _segments(data):
    """Yields (marker, body, where it ends in bytes) of a file's segments up to its first scan; ends early where one is broken."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xFF:  # markers may follow any number of these
            at += 1
            continue
        if end < at + 4 or end >= len(data):
            return
        yield marker, data[at + 4 : end], end
        if marker == SCAN:
            return
        at = end


def read_header(data):
    """The Header of a file's bytes; None where they are not a JPEG of 1 or 3 components of 8 bits that libjpeg-turbo can decode."""
    if data[:2] != bytes((0xFF, START)):
        return None
    segments = list(_segments(data))
    marker, frame = next(((marker, body) for marker, body, _ in segments if marker in FRAMES), (None, b""))
    if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3):
        return None
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    return Header(height, width, FRAMES[marker], segments) if height and width else None


def layout(header):
    """What decoding a part of a file needs.

    Args:
      header: of read_header, or None.
    Returns:
      a Layout; None where `planes` cannot decode the file: there is no header, or it is broken, or not grey or YCbCr with 8 bits, one scan,
      Huffman-coded, not progressive, chroma at least half of luma's resolution.
    """
    try:
        return header and _layout(header.segments)
    except (IndexError, KeyError, ValueError):  # a segment is too short, a table was never defined
        return None


def _layout(segments):
    huffman, quantization, frame, restart, transform, jfif = b"", b"", b"", 0, 1, False
    for marker, body, at in segments:  # noqa: B007  the last ones are the scan's
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
        elif not (marker == SCAN or 0xE0 < marker <= 0xEF or marker == 0xFE):  # other kinds of coding, further frames
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


def planes(data, layout, top, left, height, width, margin=4):
    """Decodes whole MCUs (8 or 16 pixels) that cover a rectangle.

    Args:
      data: bytes of the file. layout: what `layout` gave for its header.
      top, left, height, width: the rectangle, in whole pixels, inside the picture.
      margin: pixels around it that are decoded too, so that chroma's neighbours are there; fewer at the picture's edges.
    Returns:
      [(plane, top, left), ...] for Y, Cb and Cr, or Y alone: uint8 [rows, columns], and where it begins in the component's own grid, whose
      pixels are `sampling` luma pixels apart. Where the picture's size is no multiple of an MCU's, planes reach beyond its edge.
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
    if ((y + down - 1) * columns + x + across) * (wide * high + n - 1) > 4 * coded:  # two bits a block at least: no memory for a lie
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


def region(data, layout, top, left, height, width):
    """The colours of a rectangle. Arguments and errors as of `planes`; returns uint8 [height, width, 3], libjpeg's up to single levels."""
    (luma, luma_top, luma_left), *chroma = planes(data, layout, top, left, height, width)
    luma = luma[top - luma_top : top - luma_top + height, left - luma_left : left - luma_left + width]
    if not chroma:
        return np.repeat(luma[:, :, None], 3, 2)
    wide, high = layout.sampling
    (blue, first_row, first_column), (red, _, _) = chroma
    last_row, last_column = -(-layout.height // high) - 1 - first_row, -(-layout.width // wide) - 1 - first_column
    return to_rgb(luma, blue, red, wide, high, top - first_row * high, left - first_column * wide, last_row, last_column)
