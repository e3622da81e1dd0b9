"""The benchmark of GPUs, tried on the CPU: what it reports, what it notes, what it refuses."""

import json
import sys

import jax
import pytest

from benchmarks import gpu, record

TRIAL = ("--cpu", "--no_compile", "--model=bnext", "--widths=8,8", "--pixels=32", "--turns=1", "--calls=1")
PROGRAMS = {"bnext_jax, evaluation", "bnext_jax, training step", "PyTorch", "PyTorch, channels_last"}


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """measured(words...) -> (exit code, the printed JSON or None, standard error). Results would be written into an empty folder."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)

    def call(*words):
        code = gpu.main(list(words))
        out, error = capsys.readouterr()
        assert not list(tmp_path.iterdir())
        return code, json.loads(out) if out else None, error

    return call


def test_every_program_has_a_rate_in_both_precisions_and_a_trial_writes_nothing(measured):
    code, found, _ = measured(*TRIAL, "--batches=2")
    assert code == 0 and found["card"] == "cpu" and found["teraflops_of_card"] is None
    assert found["cases"].keys() == {"bfloat16, batch 2", "float32, batch 2"}
    for one in found["cases"].values():
        assert one["missing"] == {"PyTorch, compiled": "left out by --no_compile"} and one["programs"].keys() == PROGRAMS
        for row in one["programs"].values():
            assert row["images_per_second"] > 0 and row["peak_bytes"] is None and row["share_of_peak"] is None
        step, forward = (one["programs"][f"bnext_jax, {name}"]["flops_per_image"] for name in ("training step", "evaluation"))
        # products: the stem to 16x16 pixels and 8 channels, a 3x3 unit without its padding, a 1x1 unit, the classifier
        products = 16 * 16 * 27 * 8 + 14 * 14 * 9 * 8 * 8 + 16 * 16 * 8 * 8 + 8 * 1000
        assert 2 * products < forward < 3 * products and 2 * forward < step


def test_a_program_without_memory_is_noted_and_the_others_are_measured(measured, monkeypatch):
    def full(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.")

    monkeypatch.setattr(gpu, "training", full)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    code, found, _ = measured(*TRIAL, "--batches=1,2")
    assert code == 0 and len(found["cases"]) == 4
    for one in found["cases"].values():
        assert one["programs"].keys() == {"bnext_jax, evaluation"} and one["missing"]["bnext_jax, training step"] == "out of memory"
        assert one["missing"]["PyTorch"].startswith("ModuleNotFoundError: ") and "torch" in one["missing"]["PyTorch"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "JAX finds no GPU, only cpu; install the extra cuda on a machine with one, or try --cpu"),
        (("--cpu", "--model=bnext", "--widths=8,12"), "widths (8, 12) are not a BNext"),
        (("--cpu", "--batches=64,0"), "--batches, --pixels, --turns and --calls must be positive"),
    ],
)
def test_a_machine_without_a_gpu_and_a_wrong_network_are_refused(measured, words, told):
    code, found, error = measured(*words)
    assert (code, found) == (2, None) and len(error.splitlines()) == 1 and told in error
