"""How long `prepare` takes: class folders of photographs at ImageNet's typical 500x375 pixels and bytes, written as array_record.

    python benchmarks/prepare.py

The command runs as a process of its own; its start, reading, writing and checksums are included. Hours for ImageNet's 1,331,167 images
are the measured rate extrapolated, with the start taken off.
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
    """(seconds, bytes of the dataset) of the command."""
    command = [sys.executable, "main.py", "prepare", "--config=configs/imagenet_bnext_tiny.py", f"--config.data.name={name}"]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, f"--config.data.directory={folder}", f"--source={source}"], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return time.perf_counter() - start, json.loads(done.stdout)["bytes"]


def make(root, count):
    """`count` photographs to train on and two to validate with, in two classes."""
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
