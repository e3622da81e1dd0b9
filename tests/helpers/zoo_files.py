"""Draws the weights of the reference outputs of the eight networks, as tests/goldens/zoo/README of the reference describes."""

import json
import zlib

import numpy as np


def draw(name, shape, seed, binary):
    """Draws the array of one variable, from its name in the reference.

    Args:
      name: the reference's name.
      shape: its shape in the reference.
      seed: meta["weight_seed"].
      binary: names of the binary weights.
    """
    n = np.asarray(np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32), np.float32)
    last = name.replace("/", ".").split(".")[-1]
    if last == "num_batches_tracked":
        return np.full(shape, 1000, np.int64)
    if last in ("running_var", "moving_variance", "var"):
        return 0.5 + np.abs(n)
    if last in ("running_mean", "moving_mean", "mean"):
        return 0.1 * n
    if name in binary:
        return np.where(n == 0, np.float32(0.5), 0.5 * n)
    if last == "bias" and "move" in name:
        return 0.3 * n
    if len(shape) < 4 and n.size == max(shape, default=1):
        if last in ("bias", "beta", "bias_x", "bias_y"):
            return 0.1 * n
        return (0.25 if "prelu" in name or "neg_slope" in name else 1) + 0.1 * n
    return n * np.sqrt(2 / np.prod(shape[:-1] if last == "kernel" else shape[1:])).astype(np.float32)


def weights(arrays, meta):
    """The reference's variables {name: array}: those that the file stores, and the drawn others."""
    stored = {} if "block" in meta else {key[5:]: value for key, value in arrays.items() if key.startswith("stat:")}
    stored |= {key[4:]: value for key, value in arrays.items() if key.startswith("set:")}  # not all of these are among the names
    shapes = zip(map(str, arrays["names"]), arrays["shapes"], strict=True)
    binary = set(map(str, arrays["binary"]))
    drawn = {
        name: stored[name] if name in stored else draw(name, tuple(json.loads(str(shape))), meta["weight_seed"], binary)
        for name, shape in shapes
    }
    return stored | drawn
