"""Measures `prepare`: class folders of photographs with ImageNet's typical size, 500x375 pixels, and bytes, written as array_record.

    python benchmarks/prepare.py

The command runs in its own process. The time includes start, reading, writing and checksums. The hours for ImageNet's 1,331,167 images
are extrapolated from the measured rate; the rate leaves out the start.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import record
from tests.helpers.photographs import jpegs

IMAGES, QUALITY, IMAGENET = 20_000, 97, 1_331_167
ROOT = pathlib.Path(__file__).parent.parent


def prepare(folder, name, source):
    """Runs the command; returns (seconds, bytes of the dataset)."""
    command = [sys.executable, "main.py", "prepare", "--config=configs/imagenet_bnext_tiny.py", f"--config.data.name={name}"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, f"--config.data.directory={folder}", f"--source={source}"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return time.perf_counter() - start, json.loads(done.stdout)["bytes"]


def make(root, count):
    """Writes `count` training and two validation photographs in two classes; returns the folder."""
    encoded = jpegs(quality=QUALITY)
    for split, number in (("train", count), ("val", 2)):
        for label in range(2):
            (root / split / f"class{label}").mkdir(parents=True)
        for i in range(number):
            (root / split / f"class{i % 2}" / f"{i}.JPEG").write_bytes(encoded[i % len(encoded)])
    return root


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        start, _ = prepare(folder / "data", "few", make(folder / "few", 2))
        seconds, size = prepare(folder / "data", "many", make(folder / "many", IMAGES))
    rate = IMAGES / (seconds - start)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    found = {
        "images": IMAGES,
        "bytes_per_image": round(size / IMAGES),
        "seconds": round(seconds, 1),
        "start_seconds": round(start, 1),
        "images_per_second": round(rate),
        "peak_memory_gib": round(memory, 2),
        "imagenet_hours": round(IMAGENET / rate / 3600, 2),
    }
    record.write("prepare", found)
