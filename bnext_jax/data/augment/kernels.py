"""Bicubic resampling and warps of uint8 images [H,W,3], compiled by Numba.

The functions compute what Pillow computes, up to single levels of 255, several times faster. Pillow is the reference
(tests/data/test_kernels.py).
They are fast because they multiply whole rows as vectors, and the three channels of a pixel as one vector.
Each function releases the interpreter lock (GIL). Numba keeps the compiled code on disk, see host.machine_code.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnext_jax.host import machine_code

compiled = machine_code.compiled(fastmath={"contract"})  # contract: fuses a * b + c into one instruction
CHUNK = 2  # taps per iteration of the loop in mac; every number of taps is a multiple of CHUNK
LANES = 4  # floats per vector; the fourth lane is the next pixel's first channel, and the next pixel overwrites it


@intrinsic
def mac(typing, out, at, source, start, stride, weights, first, taps):
    """Computes one weighted sum of pixels: out[at : at + 4] = sum over k < taps of weights[first + k] * source[s : s + 4].

    Here s = start + k * stride. All arrays are flat float32. There are no bounds checks: `source` and `out` must reach one element
    beyond the last pixel. The function generates LLVM code, because Numba's own vectorizer only works along loops and the three
    channels are not a loop.
    """

    def generate(context, builder, signature, arguments):
        vector, index, lane = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64), ir.IntType(32)
        _, at, _, start, stride, _, first, taps = arguments
        data = {i: context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 5)}
        total = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, [0.0] * LANES), total)
        with cgutils.for_range(builder, builder.sdiv(taps, ir.Constant(index, CHUNK))) as loop:
            value = builder.load(total)
            for j in range(CHUNK):
                k = builder.add(builder.mul(loop.index, ir.Constant(index, CHUNK)), ir.Constant(index, j))
                place = builder.gep(data[2], [builder.add(start, builder.mul(k, stride))])
                pixel = builder.load(builder.bitcast(place, vector.as_pointer()), align=4)
                weight = builder.load(builder.gep(data[5], [builder.add(first, k)]))
                spread = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.Constant(lane, 0))
                spread = builder.shuffle_vector(spread, spread, ir.Constant(ir.VectorType(lane, LANES), [0] * LANES))
                value = builder.fadd(value, builder.fmul(spread, pixel, flags=["contract"]), flags=["contract"])
            builder.store(value, total)
        target = builder.bitcast(builder.gep(data[0], [at]), vector.as_pointer())
        builder.store(builder.load(total), target, align=4)
        return context.get_dummy_value()

    return types.void(out, at, source, start, stride, weights, first, taps), generate


@compiled
def _cubic(x):
    """Cubic interpolation kernel with a = -1/2 (Keys 1981)."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


@compiled
def _axis(low, high, origin, scale, count):
    """Computes the taps of one axis: (first input pixel [count], weights [count, taps]).

    Output pixel o has its center at origin + (o + 1/2) * scale. Only the input pixels low..high-1 are used. When the axis shrinks,
    the cubic is stretched by `scale` (antialiasing). The weights of each output pixel are scaled to a sum of 1, as in Pillow.
    """
    stretch = max(scale, 1.0)
    taps = min(math.ceil(4 * stretch), high - low)
    taps += taps % CHUNK
    first, weights = np.empty(count, np.int64), np.zeros((count, taps), np.float32)
    for o in range(count):
        center = origin + (o + 0.5) * scale
        start = min(max(int(center - 2 * stretch + 0.5), low), high - 1)
        end = max(min(int(center + 2 * stretch + 0.5), high), start + 1)
        total = 0.0
        for i in range(start, end):
            total += _cubic((i - center + 0.5) / stretch)
        for i in range(start, end):
            weights[o, i - start] = _cubic((i - center + 0.5) / stretch) / total
        first[o] = start
    return first, weights


@compiled
def store(values: np.ndarray, add: np.float32, out: np.ndarray) -> None:
    """Writes out[i] = values[i] + add, clipped to [0, 255] and truncated to an integer; add = 0.5 rounds."""
    for i in range(out.shape[0]):
        out[i] = np.uint8(np.int32(min(max(values[i] + add, np.float32(0)), np.float32(255))))


@compiled
def resample(
    image: np.ndarray, top: float, left: float, height: float, width: float, out_height: int, out_width: int, mirrored: bool = False
) -> np.ndarray:
    """Resizes a rectangle of an image: bicubic, with antialiasing on an axis that shrinks. Only pixels that the rectangle touches are used.

    Args:
      image: uint8 [H,W,3], contiguous.
      top: upper edge of the rectangle, in pixels, perhaps a fraction.
      left: left edge, likewise.
      height: height of the rectangle, likewise.
      width: width of the rectangle, likewise.
      out_height: rows of the result.
      out_width: columns of the result.
      mirrored: whether to mirror the result left to right.
    Returns:
      uint8 [out_height, out_width, 3].
    """
    rows, columns = image.shape[0], image.shape[1]
    left_edge = int(left)
    used = min(math.ceil(left + width), columns) - left_edge
    first_row, row_weights = _axis(int(top), min(math.ceil(top + height), rows), top, height / out_height, out_height)
    first, weights = _axis(0, used, left - left_edge, width / out_width, out_width)
    flat, weights, taps = image.reshape(-1), weights.reshape(-1), weights.shape[1]
    line = np.zeros(3 * (used + taps) + 1, np.float32)  # one row after the vertical pass, then zeros for taps of weight 0
    wide = np.empty(3 * out_width + 1, np.float32)
    out = np.empty((out_height, 3 * out_width), np.uint8)
    n = 3 * used
    for y in range(out_height):
        start = (first_row[y] * columns + left_edge) * 3
        step, w = 3 * columns, row_weights[y]
        for k in range(0, w.shape[0], 2):
            w0, w1 = w[k], w[k + 1]
            one = flat[start + k * step : start + k * step + n]
            two = one if w1 == 0 else flat[start + (k + 1) * step : start + (k + 1) * step + n]
            if k == 0:
                for i in range(n):
                    line[i] = w0 * np.float32(one[i]) + w1 * np.float32(two[i])
            elif w0 != 0 or w1 != 0:
                for i in range(n):
                    line[i] += w0 * np.float32(one[i]) + w1 * np.float32(two[i])
        for i in range(n):  # Pillow rounds to bytes between its two passes, which clips; so clip here
            line[i] = min(max(line[i], np.float32(0)), np.float32(255))
        for x in range(out_width):
            column = out_width - 1 - x if mirrored else x
            mac(wide, 3 * x, line, 3 * first[column], 3, weights, column * taps, taps)
        store(wide, np.float32(0.5), out[y])
    return out.reshape(out_height, out_width, 3)


PAD = 2  # pixels that a cubic reads beyond the border
CUT = np.float32(1 / 512)  # Pillow's transforms truncate; this keeps an integer that float rounding left slightly too small


@compiled
def _padded(image):
    """Returns a flat float32 copy of the image, with the border repeated PAD pixels outward and one more element for mac."""
    height, width = image.shape[0], image.shape[1]
    columns = width + 2 * PAD
    out = np.empty((height + 2 * PAD) * columns * 3 + 1, np.float32)
    for y in range(height + 2 * PAD):
        row = image[min(max(y - PAD, 0), height - 1)].reshape(-1)
        line = out[3 * columns * y : 3 * columns * (y + 1)]
        for i in range(3 * width):
            line[3 * PAD + i] = row[i]
        for i in range(3 * PAD):
            line[i] = row[i % 3]
            line[3 * (PAD + width) + i] = row[3 * width - 3 + i % 3]
    return out


@compiled
def _sharp_taps(t, weights):
    """Writes the four weights of the cubic with a = -1, which Pillow's transforms use. t in [0, 1): offset from the second tap."""
    weights[0] = ((2 - t) * t - 1) * t
    weights[1] = (t - 2) * t * t + 1
    weights[2] = ((1 - t) * t + 1) * t
    weights[3] = (t - 1) * t * t


def _sharp_table():
    table = np.empty((STEPS, 4), np.float32)
    for i in range(STEPS):
        _sharp_taps(i / STEPS, table[i])
    return table.reshape(-1)


BITS = 10
STEPS = 1 << BITS  # positions between two neighboring pixels that a warp distinguishes
SHARP_TAPS = _sharp_table()


@compiled
def shift_rows(image: np.ndarray, shear: float, offset: float, fill: np.ndarray) -> np.ndarray:
    """Shifts each row horizontally: out[y, x] = image at column x + shear * (y + 1/2) + offset. Otherwise like `warp` with v = y."""
    height, width = image.shape[0], image.shape[1]
    pixels, stride = _padded(image), 3 * (width + 2 * PAD)
    out, line, w = np.empty((height, 3 * width), np.uint8), np.empty(3 * width, np.float32), np.empty(4, np.float32)
    for y in range(height):
        move = shear * (y + 0.5) + offset
        low, high = 0, width  # the columns with 0 <= x + 1/2 + move < width
        while low < high and low + 0.5 + move < 0:
            low += 1
        while low < high and high - 0.5 + move >= width:
            high -= 1
        if low < high:
            whole = math.floor(move)
            _sharp_taps(move - whole, w)
            start, n = (y + PAD) * stride + 3 * (PAD + low + whole - 1), 3 * (high - low)
            row = pixels[start : start + n + 9]
            for i in range(n):
                line[i] = w[0] * row[i] + w[1] * row[i + 3] + w[2] * row[i + 6] + w[3] * row[i + 9]
            store(line, CUT, out[y, 3 * low : 3 * high])
        for x in range(width):
            if x < low or x >= high:
                for j in range(3):
                    out[y, 3 * x + j] = fill[j]
    return out.reshape(height, width, 3)


@compiled
def shift_columns(image: np.ndarray, shear: float, offset: float, fill: np.ndarray) -> np.ndarray:
    """Shifts each column vertically: out[y, x] = image at row y + shear * (x + 1/2) + offset. Otherwise like `warp` with u = x."""
    height, width = image.shape[0], image.shape[1]
    pixels, stride = _padded(image), 3 * (width + 2 * PAD)
    out, line = np.empty((height, 3 * width), np.uint8), np.empty(3 * width + 1, np.float32)
    moves, whole, weights = np.empty(width, np.float64), np.empty(width, np.int64), np.empty((width, 4), np.float32)
    for x in range(width):
        moves[x] = shear * (x + 0.5) + offset
        whole[x] = math.floor(moves[x])
        _sharp_taps(moves[x] - whole[x], weights[x])
    flat = weights.reshape(-1)
    for y in range(height):
        for x in range(width):
            v = moves[x] + (y + 0.5)
            if v < 0 or v >= height:
                for j in range(3):
                    line[3 * x + j] = fill[j]
            else:
                mac(line, 3 * x, pixels, (PAD + y + whole[x] - 1) * stride + 3 * (PAD + x), stride, flat, 4 * x, 4)
        store(line, CUT, out[y])
    return out.reshape(height, width, 3)


@compiled
def warp(image: np.ndarray, a: float, b: float, c: float, d: float, e: float, f: float, fill: np.ndarray) -> np.ndarray:
    """Applies an affine transform like Pillow's `transform` with BICUBIC: out[y, x] = image at (u, v) = (a x + b y + c, d x + e y + f).

    Args:
      image: uint8 [H,W,3].
      a: u per output column x. The center of pixel i is at i + 1/2, in the input and in the output.
      b: u per output row y.
      c: offset of u, in pixels.
      d: v per output column x.
      e: v per output row y.
      f: offset of v, in pixels.
      fill: uint8 [3], the color where (u, v) is outside the image.
    Returns:
      uint8 [H,W,3]. Values are truncated, not rounded. Near the border, the nearest pixel replaces missing neighbors.
    """
    height, width = image.shape[0], image.shape[1]
    pixels, stride = _padded(image), 3 * (width + 2 * PAD)
    out, line = np.empty((height, 3 * width), np.uint8), np.empty(3 * width + 1, np.float32)
    rows, taps = np.zeros(17, np.float32), SHARP_TAPS
    for y in range(height):
        u0, v0 = b * (y + 0.5) + c, e * (y + 0.5) + f
        for x in range(width):
            u, v = u0 + a * (x + 0.5), v0 + d * (x + 0.5)
            if u < 0 or v < 0 or u >= width or v >= height:
                line[3 * x], line[3 * x + 1], line[3 * x + 2] = fill[0], fill[1], fill[2]
            else:
                across, down = int((u + 0.5) * STEPS + 0.5), int((v + 0.5) * STEPS + 0.5)  # (u - 1/2) + 1 is positive: int() rounds
                start = (PAD + (down >> BITS) - 2) * stride + 3 * (PAD + (across >> BITS) - 2)
                at = 4 * (across & (STEPS - 1))
                mac(rows, 0, pixels, start, 3, taps, at, 4)
                mac(rows, 4, pixels, start + stride, 3, taps, at, 4)
                mac(rows, 8, pixels, start + 2 * stride, 3, taps, at, 4)
                mac(rows, 12, pixels, start + 3 * stride, 3, taps, at, 4)
                mac(line, 3 * x, rows, 0, 4, taps, 4 * (down & (STEPS - 1)), 4)
        store(line, CUT, out[y])
    return out.reshape(height, width, 3)
