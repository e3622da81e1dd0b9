"""Writes measurements to results/NAME.json, with the command, the commit and the machine."""

import datetime
import json
import os
import pathlib
import platform
import sys
from importlib import metadata

from bnext_jax.host import process

RESULTS = pathlib.Path(__file__).parent.parent / "results"


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def machine():
    """Describes this machine: {"processor", "cores", "memory_gib", "python", "jax", "flax"}."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(process.memory_bytes() / 2**30, 1),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "flax")},
    }


def kept(name):
    """Reads results/NAME.json of earlier calls; {} where the file does not exist."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def origin():
    """Where figures come from: {"command", "commit", "date"}. `commit` ends in "+" if files differ from that commit."""
    return {
        "command": "python " + " ".join([os.path.relpath(sys.argv[0], RESULTS.parent), *sys.argv[1:]]),
        "commit": process.revision(),
        "date": datetime.date.today().isoformat(),
    }


def write(name, values):
    """Writes results/NAME.json and prints it. See `origin`."""
    record = {
        **origin(),
        "machine": machine(),
        **values,
    }
    text = json.dumps(record, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
