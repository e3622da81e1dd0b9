"""How long imports take: `import bnext_jax`, the first network after it, and `bnext --help`, each in fresh processes.

    python benchmarks/import_time.py

The result is the median of seven processes.
"""

import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import record

ROOT = pathlib.Path(__file__).parents[1]
PROCESSES = 7
CODE = (
    "import time; start = time.perf_counter(); import bnext_jax; package = time.perf_counter();"
    " bnext_jax.create_model; print(package - start, time.perf_counter() - package)"
)


def in_process(*words: str) -> tuple[str, float]:
    """Runs one process; returns (its standard output, its seconds)."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout, time.perf_counter() - start


def main() -> None:
    """Measures, and writes results/import_time.json."""
    imports = [list(map(float, in_process("-c", CODE)[0].split())) for _ in range(PROCESSES)]
    helps = [in_process("main.py", "--help")[1] for _ in range(PROCESSES)]
    package, network = (statistics.median(values) for values in zip(*imports, strict=True))
    record.write(
        "import_time",
        {
            "import_bnext_jax_milliseconds": round(1000 * package, 2),
            "first_network_seconds": round(network, 2),
            "help_seconds": round(statistics.median(helps), 2),
        },
    )


if __name__ == "__main__":
    main()
