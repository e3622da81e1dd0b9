"""RandAugment's pointwise operations and its 3x3 smoothing, on uint8 images [H,W,3], compiled by Numba.

The results equal Pillow's to the last bit (tests/data/test_randaugment.py). Floats are float32, as in Pillow; the compiler can then
compute rows as vectors.
"""

import numpy as np

from bnext_jax.data.augment.kernels import compiled, store


@compiled
def lookup(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns out[y, x, c] = table[c, image[y, x, c]]; table: uint8 [3, 256]."""
    out = np.empty_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x, 0] = table[0, image[y, x, 0]]
            out[y, x, 1] = table[1, image[y, x, 1]]
            out[y, x, 2] = table[2, image[y, x, 2]]
    return out


@compiled
def histogram(image: np.ndarray) -> np.ndarray:
    """Counts how often each value occurs in each channel: int64 [3, 256]."""
    counts = np.zeros((3, 256), np.int64)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for channel in range(3):
                counts[channel, image[y, x, channel]] += 1
    return counts


@compiled
def _luminance(red, green, blue):
    """Returns the ITU-R 601-2 luma of three bytes as int32, in Pillow's fixed-point arithmetic."""
    return np.int32(np.int32(red) * np.int32(19595) + np.int32(green) * np.int32(38470) + np.int32(blue) * np.int32(7471) + 32768) >> 16


@compiled
def _blended(start, end, factor):
    """Returns start + factor * (end - start) in float32, clipped to [0, 255] and truncated to a byte."""
    return np.uint8(np.int32(min(max(start + factor * (end - start), np.float32(0)), np.float32(255))))


@compiled
def luminance_sum(image: np.ndarray) -> int:
    """Sums the luminance of all pixels; an integer."""
    total = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += _luminance(image[y, x, 0], image[y, x, 1], image[y, x, 2])
    return total


@compiled
def saturate(image: np.ndarray, factor: np.float32) -> np.ndarray:
    """Interpolates between the gray image (factor 0) and the image (factor 1); other factors extrapolate."""
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
def sharpen(image: np.ndarray, factor: np.float32) -> np.ndarray:
    """Interpolates between the smoothed image (factor 0) and the image (factor 1); other factors extrapolate.

    The smoothed image is the rounded mean of 3x3 pixels, with the center counted five times. The outermost pixels do not change.
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
            smooth = np.float32(np.int32(total * np.float32(1 / 13) + np.float32(0.5)))  # rounds; total / 13 never ends in .5
            result[i] = smooth + factor * (inner[i] - smooth)
        store(result, np.float32(0), out[y].reshape(n)[3 : n - 3])
    return out


@compiled
def mirror(image: np.ndarray) -> np.ndarray:
    """Mirrors the image left to right."""
    height, width, _ = image.shape
    out = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        row, target = image[y], out[y]
        for x in range(width):
            for channel in range(3):
                target[x, channel] = row[width - 1 - x, channel]
    return out
