"""The log of a run: a file of JSON lines in its work directory."""

import json
import os
from typing import Any

from bnext_jax.io.paths import to_path

METRICS_FILE = "metrics.jsonl"


def read_metrics(workdir: os.PathLike | str) -> list[dict[str, Any]]:
    """Reads the log of a work directory, up to the first line that is not JSON (a half-written last line).

    Args:
      workdir: the run's folder.
    Returns:
      One dict per line, oldest first; [] if there is no log.
    """
    path = to_path(workdir) / METRICS_FILE
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
