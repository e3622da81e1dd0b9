"""From a JPEG's coefficients to colours: inverse DCT, chroma interpolated, YCbCr to RGB; compiled by Numba."""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bnext_jax.data.augment.kernels import compiled

_c = [math.cos(i * math.pi / 16) / 2 for i in (4, 1, 2, 1, 4, 1, 2, 1)]
FOLD = np.outer(_c, _c).reshape(64)  # factors that quantizers take over from _transform  # of the quantizers


def _transform(builder, c):
    """Eight-point inverse DCT of eight vectors, whose factors FOLD holds."""
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
    """Rows and columns of eight vectors of eight exchanged: three rounds of merging pairs."""

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
    """A block's pixels: out[at + y * stride + x] for x, y < 8; the block is zero afterwards. Flat arrays, nothing is checked.

    coefficients: int16 [64], transposed; quantizers: float32, this component's 64 from `first` on. In LLVM's terms because Numba's own
    vectoriser does not exchange rows and columns of a block.
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
        lines[0] = builder.fadd(lines[0], ir.Constant(number, [128.5] * 8), flags=["contract"])  # samples' offset, and 1/2: rounds
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
    """out = 3/4 near + 1/4 far."""
    for i in range(out.shape[0]):
        out[i] = np.float32(0.75) * np.float32(near[i]) + np.float32(0.25) * np.float32(far[i])


@compiled
def _spread(values, out):
    """Twice as many values: each of values[1:-1] becomes two, mixed with its neighbours 3 to 1."""
    before, here, after = values[:-2], values[1:-1], values[2:]
    for i in range(here.shape[0]):
        out[2 * i] = np.float32(0.75) * here[i] + np.float32(0.25) * before[i]
        out[2 * i + 1] = np.float32(0.75) * here[i] + np.float32(0.25) * after[i]


@intrinsic
def _weave(typing, red, green, blue, at, out):
    """out[3 * at : 3 * at + 48] = the bytes of 16 pixels from float32 rows, cut to 0..255. Nothing is checked.

    In LLVM's terms because Numba's own vectoriser stores interleaved bytes one by one, which took longer than all of the colours.
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
    """A row of RGB, flat, from Y, Cb and Cr (JFIF's matrix), rounded; r, g, b: float32 rows to work in."""
    n = luma.shape[0]
    for i in range(n):
        y, u, v = np.float32(luma[i]) + np.float32(0.5), blue[i] - np.float32(128), red[i] - np.float32(128)
        r[i] = y + np.float32(1.402) * v
        g[i] = y - np.float32(0.344136) * u - np.float32(0.714136) * v
        b[i] = y + np.float32(1.772) * u
    if n >= 16:
        for i in range(0, n - 15, 16):
            _weave(r, g, b, i, out)
        _weave(r, g, b, n - 16, out)  # again some that are done, where 16 does not divide the row
        return
    for i in range(n):
        for j in range(3):
            value = r[i] if j == 0 else g[i] if j == 1 else b[i]
            out[3 * i + j] = np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255))))


@compiled
def to_rgb(luma, blue_plane, red_plane, wide, high, top, left, last_row, last_column):
    """Colours of a rectangle, chroma interpolated as libjpeg does (each pixel 3 to 1 with the next nearest).

    Args:
      luma: uint8 [height, width], the rectangle. blue_plane, red_plane: uint8 [rows, columns], Cb and Cr, at least what the
        rectangle and its neighbours need. wide, high: luma pixels of a chroma pixel.
      top, left: where luma[0, 0] lies in chroma's grid, in luma pixels.
      last_row, last_column: of chroma inside the picture; beyond them and before 0 the nearest stands in.
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
