"""Measures packed networks: speed beside floats, parts of the time, start, memory, and the limits of this processor.

    python benchmarks/packed.py                      # all networks; needs the extra bench
    python benchmarks/packed.py bnext_tiny bnext18   # these; the others keep their old figures
    python benchmarks/packed.py sizes                # only the sizes of all files, in results/packed_sizes.json

Speeds come from `bnext bench`: contenders in turn in one process, on one processor and on all. The C program is examples/c.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import record
from bnext_jax.analysis.count import weigh
from bnext_jax.commands.bench import bench
from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.load import edition_arguments
from bnext_jax.models.table import abstract_model, create_model, model_config
from bnext_jax.packed import build, file
from bnext_jax.packed.engine import Engine
from bnext_jax.packed.pack import pack

ROOT = pathlib.Path(__file__).parent.parent
NETWORKS = {"bnext_tiny": (1, 8), "bnext18": (1, 8), "bnext_small": (1,), "bnext_middle": (1,), "bnext_large": (1,)}  # and batches
ROUNDS = {"bnext_tiny": 9, "bnext18": 15, "bnext_small": 7, "bnext_middle": 5, "bnext_large": 4}
SIDE = 224  # pixels
STARTS = 9


def packed(name, folder, arguments=None):
    """A packed file of a network with random weights. arguments: see create_model."""
    arguments = arguments or {}
    model = create_model(name, rngs=nnx.Rngs(0), **arguments)
    model.temperature[...] = jnp.zeros(())
    path = folder / f"{name}.bnext"
    file.write(path, *pack(model, without_run(model, {"name": name, "num_classes": 1000, "arguments": arguments})))
    return path


def parts(path, kernel=None):
    """Milliseconds of one image on one processor, by the kind of work: the fastest of 15 images."""
    engine = Engine(path, threads=1, kernel=kernel)
    image = np.random.default_rng(0).standard_normal((1, SIDE, SIDE, 3), np.float32)
    best, before = None, engine.seconds()
    for _ in range(16):
        engine(image)
        after = engine.seconds()
        spent = {part: 1e3 * (after[part] - before[part]) for part in after}
        before = after
        if best is None or sum(spent.values()) < sum(best.values()):
            best = spent
    return {part: round(value, 2) for part, value in best.items()}


def start(program, path, folder):
    """Seconds of the C program from its start to its end, with one image, and its memory: the median of STARTS, and the largest."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    picture = folder / "picture.ppm"
    picture.write_bytes(b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels.tobytes())
    times = []
    for _ in range(STARTS):
        begin = time.perf_counter()
        subprocess.run([program, path, picture, "1"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    code = "import resource,subprocess,sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    told = subprocess.run([sys.executable, "-c", code, program, path, picture, "1"], check=True, capture_output=True, text=True)
    return {"seconds": round(float(np.median(times)), 3), "memory_mib": round(int(told.stdout) / 2**10, 1)}


def limits(folder):
    """The figures of limits.c."""
    engine = [path for path in map(str, build.sources()) if not path.endswith("xla.c")]
    words = [*build.compiler(), "-std=c11", "-O3", "-pthread", f"-I{build.SOURCES}", str(ROOT / "benchmarks/limits.c"), *engine]
    subprocess.run([*words, "-o", folder / "limits", "-lm"], check=True)
    return json.loads(subprocess.run([folder / "limits"], check=True, capture_output=True, text=True).stdout)


def sizes():
    """MiB of each packed file and of its quantized edition, by the file and by `count`."""
    found = {}
    with tempfile.TemporaryDirectory() as made:
        for name in NETWORKS:
            for label, bits in (("float gates", None), ("gates of 4 bits", 4)):
                if bits and model_config(name).edition(bits) is None:
                    continue
                path = packed(name, pathlib.Path(made), edition_arguments(name, {}, bits) if bits else {})
                counted = weigh(abstract_model(name))["bytes_edition" if bits else "bytes"]
                values = {"file_mib": path.stat().st_size / 2**20, "count_mib": counted / 2**20}
                found.setdefault(name, {})[label] = {key: round(value, 3) for key, value in values.items()}
                path.unlink()
    return found


def main():
    """Runs all measurements and writes results/packed.json."""
    if sys.argv[1:] == ["sizes"]:
        record.write("packed_sizes", {"networks": sizes()})
        return
    names = sys.argv[1:] or list(NETWORKS)
    values = {name: found for name, found in record.kept("packed").get("networks", {}).items() if name not in names}
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        subprocess.run(["make", "--silent", "-C", ROOT / "examples/c", f"BUILD={folder / 'c'}"], check=True, stdout=subprocess.DEVNULL)
        for name in names:
            path = packed(name, folder)
            done = bench(checkpoint=str(path), batch=NETWORKS[name], rounds=ROUNDS[name])
            values[name] = {
                **record.origin(),
                "processors": len(os.sched_getaffinity(0)),
                "file_mib": round(path.stat().st_size / 2**20, 3),
                "milliseconds": done["threads"],
                "missing": done["missing"],
                "parts_milliseconds": parts(path),
                "c_program": start(folder / "c/classify", path, folder),
            }
            if name == "bnext_tiny":
                for kernel in ("avx2", "c"):
                    values[name][f"parts_milliseconds_{kernel}"] = parts(path, kernel)
            path.unlink()
        found = limits(folder)
    settings = {"pixels": SIDE, "rounds": ROUNDS}
    record.write("packed", {"settings": settings, "limits": found, "networks": values})
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB", file=sys.stderr)


if __name__ == "__main__":
    main()
