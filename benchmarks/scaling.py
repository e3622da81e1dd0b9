"""Measures training steps over several devices with fixed work per device: images per second, collectives, and the host's time per step.

    python benchmarks/scaling.py

BNext-T at 64 pixels, 8 images a device, on 1, 2, 4 and 8 virtual devices of this machine's CPU. The devices share the CPU's cores, so
images per second cannot grow. They show that the amount of work decides, not the number of devices. Collectives are read from the
compiled programs.
"""

import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import jax

from benchmarks import record, steps
from bnext_jax.tpu.collectives import collectives
from bnext_jax.training import mesh

SHARE, PIXELS = 8, 64
DEVICES = (1, 2, 4, 8)
# layout -> (images of a batch-norm group, None = the whole batch; config.mesh)
LAYOUTS = {"grouped": (SHARE, ""), "synchronised": (None, ""), "grouped_sharded": (SHARE, "shard=2")}


def one(devices, layout):
    """Measures one layout on `devices` virtual devices."""
    jax.config.update("jax_num_cpu_devices", devices)
    group, text = LAYOUTS[layout]
    shardings = mesh.make_shardings(text)
    step, arguments, _ = steps.built(shardings, "bnext_tiny", SHARE * devices, PIXELS, group=group)
    compiled = step.lower(*arguments).compile()
    stepping = steps.Stepping(compiled, arguments)
    jax.block_until_ready(stepping())
    seconds = steps.best_seconds(stepping)
    host = []
    for _ in range(5):
        start = time.perf_counter()
        loss = stepping()
        host.append(time.perf_counter() - start)
        jax.block_until_ready(loss)
    return {
        "images_per_second": round(SHARE * devices / seconds, 2),
        "step_seconds": round(seconds, 3),
        "host_milliseconds": round(1000 * min(host), 1),
        "collectives": collectives(compiled.as_text()),
    }


def main():
    """Runs each measurement in its own process and writes results/scaling.json."""
    if len(sys.argv) > 1:
        print(json.dumps(one(int(sys.argv[1]), sys.argv[2])))
        return
    found = {}
    for layout in LAYOUTS:
        for devices in DEVICES if layout == "grouped" else DEVICES[-1:]:
            line = [sys.executable, __file__, str(devices), layout]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            found.setdefault(layout, {})[devices] = json.loads(done.stdout.splitlines()[-1])
            print(layout, devices, found[layout][devices], file=sys.stderr, flush=True)
    record.write(
        "scaling", {"settings": {"model": "bnext_tiny", "images_per_device": SHARE, "pixels": PIXELS, "precision": "float32"}, **found}
    )


if __name__ == "__main__":
    main()
