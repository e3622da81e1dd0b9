"""Pointwise operations and the 3x3 smoothing of RandAugment on uint8 images [H,W,3], compiled by Numba.

They give Pillow's results to the last bit (tests/data/test_randaugment.py); floats are float32, as in Pillow, and let rows be computed
as vectors.
"""

import numpy as np

from bnext_jax.data.augment.kernels import compiled, store


@compiled
def lookup(image, table):
    """out[y, x, c] = table[c, image[y, x, c]]; table: uint8 [3, 256]."""
    out = np.empty_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x, 0] = table[0, image[y, x, 0]]
            out[y, x, 1] = table[1, image[y, x, 1]]
            out[y, x, 2] = table[2, image[y, x, 2]]
    return out


@compiled
def histogram(image):
    """int64 [3, 256]: how often each value occurs in each channel."""
    counts = np.zeros((3, 256), np.int64)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for channel in range(3):
                counts[channel, image[y, x, channel]] += 1
    return counts


@compiled
def _luminance(red, green, blue):
    """ITU-R 601-2 luma of three bytes, in Pillow's fixed point; int32."""
    return np.int32(np.int32(red) * np.int32(19595) + np.int32(green) * np.int32(38470) + np.int32(blue) * np.int32(7471) + 32768) >> 16


@compiled
def _blended(start, end, factor):
    """start + factor * (end - start), float32 [0, 255], cut to a byte."""
    return np.uint8(np.int32(min(max(start + factor * (end - start), np.float32(0)), np.float32(255))))


@compiled
def luminance_sum(image):
    """The sum of the image's luminance, a whole number."""
    total = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += _luminance(image[y, x, 0], image[y, x, 1], image[y, x, 2])
    return total


@compiled
def saturate(image, factor):
    """Between the grey image (factor 0) and the image (1), or beyond; factor: float32."""
    out = np.empty_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            red, green, blue = image[y, x, 0], image[y, x, 1], image[y, x, 2]
            grey = np.float32(_luminance(red, green, blue))
            out[y, x, 0] = _blended(grey, np.float32(red), factor)
            out[y, x, 1] = _blended(grey, np.float32(green), factor)
            out[y, x, 2] = _blended(grey, np.float32(blue), factor)
    return out


@compiled
def sharpen(image, factor):
    """Between the smoothed image (factor 0) and the image (1), or beyond; factor: float32.

    Smoothed: the mean of 3x3 pixels, the centre counted five times, rounded; the outermost pixels stay as they are.
    """
    height, width, _ = image.shape
    n = width * 3
    flat, out = image.reshape(height, n), image.copy()
    column, middle, result = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(max(n - 6, 0), np.float32)
    left, center, right, inner = column[: n - 6], column[3 : n - 3], column[6:], middle[3 : n - 3]  # a pixel is three elements
    for y in range(1, height - 1):
        above, row, below = flat[y - 1], flat[y], flat[y + 1]
        for i in range(n):
            middle[i] = np.float32(row[i])
            column[i] = np.float32(above[i]) + middle[i] + np.float32(below[i])
        for i in range(result.shape[0]):
            total = left[i] + center[i] + right[i] + np.float32(4) * inner[i]
            smooth = np.float32(np.int32(total * np.float32(1 / 13) + np.float32(0.5)))  # total / 13 is never half a whole number
            result[i] = smooth + factor * (inner[i] - smooth)
        store(result, np.float32(0), out[y].reshape(n)[3 : n - 3])
    return out


@compiled
def mirror(image):
    """Left to right."""
    height, width, _ = image.shape
    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        row, target = image[y], out[y]
        for x in range(width):
            for channel in range(3):
                target[x, channel] = row[width - 1 - x, channel]
    return out
