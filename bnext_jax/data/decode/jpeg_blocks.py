"""Converts a JPEG's coefficients to colors: inverse DCT, chroma interpolation, YCbCr to RGB; compiled by Numba."""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bnext_jax.data.augment.kernels import compiled

_c = [math.cos(i * math.pi / 16) / 2 for i in (4, 1, 2, 1, 4, 1, 2, 1)]
FOLD = np.outer(_c, _c).reshape(64)  # the scale factors that _transform leaves out; the quantization tables include them


def _transform(builder, c):
    """Generates code for the eight-point inverse DCT of eight vectors, without the scale factors in FOLD."""
    vector = c[0].type

    def add(a, b):
        return builder.fadd(a, b, flags=["contract"])

    def sub(a, b):
        return builder.fsub(a, b, flags=["contract"])

    def times(a, factor):
        return builder.fmul(a, ir.Constant(vector, [factor] * 8), flags=["contract"])

    k = [math.cos(i * math.pi / 16) / math.cos(math.pi / 16) for i in range(8)]
    tan = math.tan(math.pi / 8)
    plus, minus = add(c[0], c[4]), sub(c[0], c[4])
    one, two = add(c[2], times(c[6], tan)), sub(times(c[2], tan), c[6])
    even = add(plus, one), add(minus, two), sub(minus, two), sub(plus, one)
    odd = (
        add(add(c[1], times(c[3], k[3])), add(times(c[5], k[5]), times(c[7], k[7]))),
        sub(sub(times(c[1], k[3]), times(c[3], k[7])), add(times(c[7], k[5]), c[5])),
        add(sub(times(c[1], k[5]), c[3]), add(times(c[5], k[7]), times(c[7], k[3]))),
        add(sub(times(c[1], k[7]), times(c[3], k[5])), sub(times(c[5], k[3]), c[7])),
    )
    return [add(e, o) for e, o in zip(even, odd, strict=True)] + [sub(e, o) for e, o in zip(even[::-1], odd[::-1], strict=True)]


def _transpose(builder, rows):
    """Generates code that transposes eight vectors of eight elements: three rounds of merging pairs."""

    def merge(a, b, order):
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 8), order))

    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    t = [merge(rows[i], rows[i + 1], o) for i in (0, 2, 4, 6) for o in (low, high)]
    low, high = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    t = [merge(t[i + j], t[i + j + 2], o) for i in (0, 4) for j in (0, 1) for o in (low, high)]
    low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    return [merge(t[i], t[i + 4], o) for o in (low, high) for i in range(4)]


@intrinsic
def idct(typing, coefficients, quantizers, first, out, at, stride):
    """Computes the pixels of a block by the inverse DCT, and sets the coefficients to zero.

    There are no bounds checks. The function generates LLVM code, because Numba's own vectorizer cannot transpose a block.

    Args:
      coefficients: int16 [64], one block, transposed.
      quantizers: float32, flat.
      first: where this component's 64 factors begin in quantizers.
      out: uint8, flat. Pixel (x, y), x and y < 8, goes to out[at + y * stride + x].
      at: where the block begins in out.
      stride: elements per pixel row in out.
    """

    def generate(context, builder, signature, arguments):
        data = {i: context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 3)}
        _, _, first, _, at, stride = arguments
        number, short, wide = ir.VectorType(ir.FloatType(), 8), ir.VectorType(ir.IntType(16), 8), ir.VectorType(ir.IntType(32), 8)
        index, lines = ir.IntType(64), []
        for i in range(8):
            place = builder.bitcast(builder.gep(data[0], [ir.Constant(index, 8 * i)]), short.as_pointer())
            line = builder.sitofp(builder.load(place, align=2), number)
            builder.store(ir.Constant(short, [0] * 8), place, align=2)
            factors = builder.gep(data[1], [builder.add(first, ir.Constant(index, 8 * i))])
            lines.append(builder.fmul(line, builder.load(builder.bitcast(factors, number.as_pointer()), align=4), flags=["contract"]))
        lines = _transpose(builder, _transform(builder, lines))
        lines[0] = builder.fadd(lines[0], ir.Constant(number, [128.5] * 8), flags=["contract"])  # 128: offset of the samples; 0.5: rounds
        for line in _transform(builder, lines):
            value = builder.fptosi(line, wide)
            zero, most = ir.Constant(wide, [0] * 8), ir.Constant(wide, [255] * 8)
            value = builder.select(builder.icmp_signed(">", value, zero), value, zero)
            value = builder.trunc(builder.select(builder.icmp_signed("<", value, most), value, most), ir.VectorType(ir.IntType(8), 8))
            builder.store(value, builder.bitcast(builder.gep(data[3], [at]), value.type.as_pointer()), align=1)
            at = builder.add(at, stride)
        return context.get_dummy_value()

    return types.void(coefficients, quantizers, first, out, at, stride), generate


@compiled
def _mix(near, far, out):
    """Writes out = 3/4 near + 1/4 far."""
    for i in range(out.shape[0]):
        out[i] = np.float32(0.75) * np.float32(near[i]) + np.float32(0.25) * np.float32(far[i])


@compiled
def _spread(values, out):
    """Doubles the resolution: each of values[1:-1] becomes two values, 3/4 of it + 1/4 of its left or right neighbor."""
    before, here, after = values[:-2], values[1:-1], values[2:]
    for i in range(here.shape[0]):
        out[2 * i] = np.float32(0.75) * here[i] + np.float32(0.25) * before[i]
        out[2 * i + 1] = np.float32(0.75) * here[i] + np.float32(0.25) * after[i]


@intrinsic
def _weave(typing, red, green, blue, at, out):
    """Interleaves 16 pixels: out[3 * at : 3 * at + 48] = bytes from three float32 rows, truncated and clipped to 0..255.

    There are no bounds checks. The function generates LLVM code, because Numba's own vectorizer stores interleaved bytes one by one.
    That took longer than the whole color conversion.
    """

    def generate(context, builder, signature, arguments):
        data = [context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 2, 4)]
        at, index = arguments[3], ir.IntType(64)
        number, whole, byte = (ir.VectorType(kind, 16) for kind in (ir.FloatType(), ir.IntType(32), ir.IntType(8)))
        zero, most = ir.Constant(whole, [0] * 16), ir.Constant(whole, [255] * 16)
        rows = []
        for source in data[:3]:
            value = builder.load(builder.bitcast(builder.gep(source, [at]), number.as_pointer()), align=4)
            value = builder.fptosi(value, whole)
            value = builder.select(builder.icmp_signed(">", value, zero), value, zero)
            rows.append(builder.trunc(builder.select(builder.icmp_signed("<", value, most), value, most), byte))

        def shuffle(a, b, order):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))

        first = shuffle(rows[0], rows[1], list(range(32)))
        second = shuffle(rows[2], rows[2], list(range(32)))
        pixels = shuffle(first, second, [16 * channel + i for i in range(16) for channel in range(3)])
        target = builder.gep(data[3], [builder.mul(at, ir.Constant(index, 3))])
        builder.store(pixels, builder.bitcast(target, pixels.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(red, green, blue, at, out), generate


@compiled
def _colours(luma, blue, red, out, r, g, b):
    """Writes a flat row of RGB from Y, Cb and Cr (JFIF's matrix), rounded. r, g, b: float32 rows for intermediate results."""
    n = luma.shape[0]
    for i in range(n):
        y, u, v = np.float32(luma[i]) + np.float32(0.5), blue[i] - np.float32(128), red[i] - np.float32(128)
        r[i] = y + np.float32(1.402) * v
        g[i] = y - np.float32(0.344136) * u - np.float32(0.714136) * v
        b[i] = y + np.float32(1.772) * u
    if n >= 16:
        for i in range(0, n - 15, 16):
            _weave(r, g, b, i, out)
        _weave(r, g, b, n - 16, out)  # the last 16 pixels; some are written twice if 16 does not divide n
        return
    for i in range(n):
        for j in range(3):
            value = r[i] if j == 0 else g[i] if j == 1 else b[i]
            out[3 * i + j] = np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255))))


@compiled
def to_rgb(
    luma: np.ndarray,
    blue_plane: np.ndarray,
    red_plane: np.ndarray,
    wide: int,
    high: int,
    top: int,
    left: int,
    last_row: int,
    last_column: int,
) -> np.ndarray:
    """Computes the colors of a rectangle. Chroma is interpolated as in libjpeg: 3/4 nearest + 1/4 second nearest, on each axis.

    Args:
      luma: Y of the rectangle, uint8 [height, width].
      blue_plane: Cb, uint8 [rows, columns]; it covers at least the rectangle and the neighboring chroma pixels.
      red_plane: Cr, likewise.
      wide: luma pixels per chroma pixel, horizontally: 1 or 2.
      high: luma pixels per chroma pixel, vertically: 1 or 2.
      top: row of luma[0, 0] relative to the first chroma row, in luma pixels.
      left: column of luma[0, 0] relative to the first chroma column, in luma pixels.
      last_row: last chroma row inside the picture; outside 0..last_row the nearest row is used.
      last_column: last chroma column inside the picture; outside 0..last_column the nearest column is used.
    Returns:
      uint8 [height, width, 3].
    """
    height, width = luma.shape
    first, end = left // wide, (left + width - 1) // wide + 1  # chroma columns
    n = end - first
    rows = np.empty((2, n + 2), np.float32)
    full = np.empty((2, 2 * n), np.float32)
    out, work = np.empty((height, 3 * width), np.uint8), np.empty((3, width), np.float32)
    for row in range(height):
        near = far = (top + row) // high
        if high == 2:
            far = min(max(near - 1 if (top + row) % 2 == 0 else near + 1, 0), last_row)
        for c in range(2):
            chroma = blue_plane if c == 0 else red_plane
            _mix(chroma[near, first:end], chroma[far, first:end], rows[c, 1 : n + 1])
            if wide == 2:
                for side, column in ((0, max(first - 1, 0)), (n + 1, min(end, last_column))):
                    rows[c, side] = np.float32(0.75) * chroma[near, column] + np.float32(0.25) * chroma[far, column]
                _spread(rows[c], full[c])
        if wide == 2:
            start = left - 2 * first
            blue, red = full[0, start : start + width], full[1, start : start + width]
        else:
            blue, red = rows[0, 1 : n + 1], rows[1, 1 : n + 1]
        _colours(luma[row], blue, red, out[row], work[0], work[1], work[2])
    return out.reshape(height, width, 3)
