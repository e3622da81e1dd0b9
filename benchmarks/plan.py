"""Runs `plan` for the published recipes on TPU slices, and writes results/plan.json after each verdict.

    python benchmarks/plan.py v5e:2x4 v6e:2x4 [tiny small middle large]     # minutes for each, hours for all

Uses the effort of --quick. A verdict in the cache (~/.cache/bnext_jax/plan) is not compiled again; its compile_seconds are those of the
first compilation.
"""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from benchmarks import record
from bnext_jax.commands.plan import plan
from bnext_jax.host.process import without_tpu

SIZES = ("tiny", "small", "middle", "large")


def main():
    """Plans each network on the command line (default: all four) on each topology on the command line."""
    without_tpu()
    topologies = [word for word in sys.argv[1:] if ":" in word]
    for size in [word for word in sys.argv[1:] if ":" not in word] or SIZES:
        config = importlib.import_module(f"configs.imagenet_bnext_{size}").get_config().check()
        for topology in topologies:
            found = plan(config, [topology], quick=True)["topologies"][topology]
            networks = record.kept("plan").get("networks", {})
            networks.setdefault(f"bnext_{size}", {})[topology] = found
            record.write("plan", {"effort": "--quick", "networks": networks})


if __name__ == "__main__":
    main()
