"""Writes small packed files with random weights, from which fuzz.c and threads.c start, and a picture for the example.

Usage: python -m tests.c.samples FOLDER
"""

import pathlib
import sys

import numpy as np

from bnext_jax.packed import file, pack
from tests.helpers.exact_networks import exact_network

NETWORKS = {
    "attention": {"name": "bnext", "widths": (8, 16, 16)},
    "plain": {"name": "bnext", "widths": (16, 16, 32), "info_recoupling": False},
    "no_attention": {"name": "bnext", "widths": (8, 8), "elm_attention": False, "stem_stride": 2},
    "quantized": {"name": "bnext", "widths": (8, 16), "gate_bits": 4, "stem_bits": 8, "classifier_bits": 8},
    "bnext18": {"name": "bnext18", "widths": (8, 16), "stem_stride": 2},
}
SIDE = 48  # pixels; a multiple of what each network needs


def main(folder: pathlib.Path) -> None:
    """Writes the files into a folder. Files of this name are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in NETWORKS.items():
        path = folder / f"{name}{file.SUFFIX}"
        path.unlink(missing_ok=True)
        file.write(path, *pack.pack(*exact_network(**arguments)))
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    (folder / "picture.ppm").write_bytes(b"P6\n# noise\n%d %d\n255\n" % (SIDE, SIDE) + pixels.tobytes())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
