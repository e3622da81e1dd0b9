"""Shared fixtures: both lowerings of the convolutions, the prepared digits, and ways to run commands."""

import io
import json
import logging
import os
import pathlib

import jax
import pytest

# Tests keep compiled programs between runs, and the commands that they start use the same cache, never the user's.
CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["BNEXT_CACHE"] = str(CACHE.parent / "user")
logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # as cli.run does: a read of a damaged checkpoint leaves asyncio tasks behind

from bnext_jax import cli as program  # noqa: E402
from bnext_jax.config import DataConfig  # noqa: E402
from bnext_jax.data.prepare import prepare  # noqa: E402
from bnext_jax.host.process import silence_abandoned, without_tpu  # noqa: E402
from bnext_jax.io import compiled  # noqa: E402
from bnext_jax.nn import lowering as lowering_module  # noqa: E402
from tests.helpers.launcher import Launcher  # noqa: E402

without_tpu()
compiled.keep()


@pytest.hookimpl(trylast=True)  # after pytest has set its own sys.unraisablehook, which silence_abandoned wraps
def pytest_configure():
    silence_abandoned()


# The slowest files, slowest first. A free pytest worker takes the next file, so no worker starts a slow file at the end.
LONGEST = (
    "test_preemption.py",
    "test_zoo_digits.py",
    "test_parallel.py",
    "test_train.py",
    "test_commands.py",
    "test_golden_training.py",
    "test_configs.py",
)


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))  # stable: keeps the order within a file


@pytest.fixture(params=["cpu", "accelerator"])
def lowering(request, monkeypatch):
    """Runs a test twice: with the CPU's form of the convolutions, and with the form that accelerators compile."""
    if request.param == "accelerator":
        monkeypatch.setattr(lowering_module, "choose", lambda cpu, default, *operands: default(*operands))
    return request.param


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The folder of the prepared digits dataset."""
    folder = str(tmp_path_factory.mktemp("datasets"))
    prepare(DataConfig(directory=folder))
    return folder


@pytest.fixture(scope="session")
def launcher():
    """A Launcher, which starts real processes quickly; see tests.helpers.launcher."""
    with Launcher() as started:
        yield started


@pytest.fixture
def run(capsys):
    """run(words...) calls main() in this process. It returns (exit code, result or None, standard error)."""

    def call(*words):
        logging.getLogger("bnext_jax").setLevel(logging.INFO)
        out = io.StringIO()
        code = program.main(["bnext", *map(str, words)], out)
        lines = out.getvalue().splitlines()
        return code, json.loads(lines[-1]) if lines else None, capsys.readouterr().err

    return call
