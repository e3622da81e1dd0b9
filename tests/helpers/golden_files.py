"""Reads the reference outputs (tests/goldens, or the folder $BNEXT_GOLDENS), and draws the weights that they were computed with.

The weights are not stored. `draw` computes each array from its PyTorch name and a seed, as the program that made the files did.
"""

import json
import os
import pathlib
import zlib

import numpy as np

OWN = pathlib.Path(__file__).parents[1] / "goldens"
FOLDER = pathlib.Path(os.environ.get("BNEXT_GOLDENS") or OWN)


def files(kind):
    """All files of one folder of the reference outputs, sorted.

    An empty folder gives one path that does not exist, so its test fails. Without it pytest would skip the test silently.
    """
    return sorted((FOLDER / kind).glob("*.npz")) or [FOLDER / kind / "missing.npz"]


def read(path):
    """Returns (arrays, meta) of one file."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return arrays, json.loads(str(arrays.pop("meta")))


def draw(name, shape, seed, temperature):
    """Draws the array of one PyTorch name."""
    if name == "fc.scale":
        return np.zeros(shape, np.float32)
    if name.endswith("clip_val"):
        return np.array([-1, 1], np.float32) * (25 if name.startswith("fc.") else 1000)
    n = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    n = np.asarray(n, np.float32)
    one = len(shape) == 1
    if name.endswith("num_batches_tracked"):
        return np.full(shape, 1000, np.int64)
    if name.endswith("temperature"):
        return np.full(shape, temperature, np.float32)
    if name.endswith("running_var"):
        return 0.5 + np.abs(n)
    if name.endswith("running_mean"):
        return 0.1 * n
    if name.endswith("binary_conv.weight"):
        return 0.5 * n
    if name == "scale" or name.endswith(".scale"):
        return 1 / (1 + np.exp(-n))
    if name.endswith("move.bias"):
        return 0.3 * n
    if one and name.endswith(".bias"):
        return 0.1 * n
    if one and ("activation" in name or "prelu" in name):
        return 0.25 + 0.1 * n
    if one:
        return 1 + 0.1 * n
    return n * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def weights(arrays, meta, *, calibrated=True):
    """Returns the state dict {PyTorch name: array} of one file. calibrated: takes the file's `stat:` arrays where they exist."""
    drawn = {}
    for name, shape in zip(map(str, arrays["names"]), arrays["shapes"], strict=True):
        stored = arrays.get(f"stat:{name}") if calibrated else None
        temperature = meta.get("temperature", 1.0)
        drawn[name] = draw(name, tuple(json.loads(str(shape))), meta["weight_seed"], temperature) if stored is None else stored
    return drawn


def nhwc(array):
    """[N,C,H,W] -> [N,H,W,C]."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
