"""A platform that does not start, and a memory that is too small."""

import jax
import pytest

from bnext_jax.commands import machine


@pytest.mark.parametrize("platform", ["cuda", "rocm", "nonsense"])
def test_a_platform_that_does_not_start_is_told_in_one_sentence(launcher, tmp_path, platform):
    pid = launcher.start(["count", "--model=bnext18"], tmp_path / "count", settings={"jax_platforms": platform})
    assert launcher.end(pid) == 2
    error = (tmp_path / "count.err").read_text()
    last = error.splitlines()[-1]
    assert last.startswith(f"bnext: JAX_PLATFORMS is '{platform}', which does not start here (") and last.endswith("or install JAX for it")
    assert "Traceback" not in error


def test_too_little_memory_is_told_in_one_sentence(run, monkeypatch):
    def exhausted(**arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 49970948560 bytes.")

    monkeypatch.setattr("bnext_jax.commands.count.count", exhausted)
    code, _, error = run("count", "--model=bnext18")
    told = "bnext: the memory is too small (RESOURCE_EXHAUSTED: Out of memory allocating 49970948560 bytes.)"
    assert code == 2 and error.splitlines()[-1] == f"{told}; compute fewer or smaller images at once"


def test_another_error_of_jax_is_no_problem_of_the_machine():
    assert machine.problem(RuntimeError("INTERNAL: a bug")) is None
    assert "set JAX_PLATFORMS=cpu" in machine.problem(RuntimeError("Unable to initialize backend 'tpu': ALREADY_IN_USE"))
