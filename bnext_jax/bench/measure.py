"""Measures contenders in turn, so that noise of the machine meets all of them alike."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnext_jax.bench.contenders import Contender
from bnext_jax.host.progress import Progress

PAUSE = 0.1  # seconds


def alternate(contenders: Sequence[Contender], images: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Runs all contenders once, to compile, then measures them in turn.

    Before each measurement there is a pause, because threads of the contender before it may still look for work (those of onnxruntime do),
    and one run that does not count, because the contender before it has filled the caches.

    Args:
      contenders: what to measure.
      images: [N,H,W,3], normalized.
      rounds: number of measurements of each contender.
    Returns:
      {name: {"median", "best"}}, milliseconds an image.
    """
    times: dict[str, list[float]] = {one.name: [] for one in contenders}
    inputs = [one.prepare(images) for one in contenders]
    with Progress(f"batch {len(images)}", (rounds + 1) * len(contenders), unit="run") as progress:
        for turn in range(rounds + 1):
            for one, given in zip(contenders, inputs, strict=True):
                if turn:
                    time.sleep(PAUSE)
                    one.run(given)
                start = time.perf_counter()
                one.run(given)
                if turn:
                    times[one.name].append(1e3 * (time.perf_counter() - start) / len(images))
                progress.step()
    return {name: {"median": round(float(np.median(of)), 2), "best": round(min(of), 2)} for name, of in times.items()}


def rows(found: dict[str, Any], baseline: str) -> list[list[str]]:
    """The table of the results.

    Args:
      found: {batch: {name: {"median", "best"}}}.
      baseline: the contender that the others are compared with.
    Returns:
      Rows of text, the first one the head.
    """
    table = [["batch", "contender", "ms an image, median", "best", f"times as fast as {baseline}"]]
    for batch, values in found.items():
        for name, one in values.items():
            factor = values[baseline]["median"] / one["median"] if baseline in values else float("nan")
            table.append([batch, name, f"{one['median']:.2f}", f"{one['best']:.2f}", f"{factor:.2f}"])
    return table
