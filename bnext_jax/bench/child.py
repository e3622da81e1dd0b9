"""The process in which `bench` measures: python -m bnext_jax.bench.child PATH SIDE BATCHES THREADS ROUNDS.

JAX makes its threads when it starts, and a thread keeps the processors that its process had then. So the parent, commands.bench, chooses
the processors before this process begins. The last line on standard output is the result as JSON.
"""

import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnext_jax.analysis import tables
from bnext_jax.bench import contenders, measure


def measured(path: pathlib.Path, side: int, batch: Sequence[int], threads: int, rounds: int) -> dict[str, Any]:
    """Measures all contenders, and prints the table on standard error.

    Args:
      path: the packed file.
      side: height and width of an image, in pixels.
      batch: numbers of images in one call.
      threads: threads of each contender that has a setting for them.
      rounds: measurements of each contender.
    Returns:
      {"milliseconds": {batch: {contender: {"median", "best"}}}, "missing": reasons}.
    """
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        programs, missing = contenders.all_of(path, threads, side, pathlib.Path(folder))
        for count in batch:
            images = np.random.default_rng(0).standard_normal((count, side, side, 3), np.float32)
            values[str(count)] = measure.alternate(programs, images, rounds)
    print(f"{side} x {side} pixels, {threads} processor{'s' if threads > 1 else ''}", file=sys.stderr)
    print(tables.text(measure.rows(values, contenders.FLOAT)), file=sys.stderr)
    for why in missing:
        print(f"not measured: {why}", file=sys.stderr)
    return {"milliseconds": values, "missing": missing}


def main(words: Sequence[str]) -> None:
    """Measures, and prints the result."""
    path, side, batch, threads, rounds = words
    print(json.dumps(measured(pathlib.Path(path), int(side), [int(one) for one in batch.split(",")], int(threads), int(rounds))))


if __name__ == "__main__":
    main(sys.argv[1:])
