"""The log of a run: one JSON line a log in its work directory."""

import json

from etils import epath

METRICS_FILE = "metrics.jsonl"


def read_metrics(workdir):
    """The JSON lines of a work directory as a list of dicts, oldest first; [] where there are none. A torn last line is left out."""
    path = epath.Path(workdir) / METRICS_FILE
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
