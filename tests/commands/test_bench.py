"""`bench`: every contender computes the same network, and the figures are medians and minima of what the clock said."""

import importlib.util
import os

import numpy as np
import pytest

from bnext_jax.bench import contenders, measure
from bnext_jax.packed import file
from bnext_jax.packed.pack import pack
from tests.helpers.commands import refused
from tests.helpers.exact_networks import exact_network, logits


@pytest.fixture
def without_onnx(monkeypatch):
    """onnxruntime looks as if it were not installed. It is an extra that the tests do not need."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name.startswith("onnx") else find(name, *more))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(network, packed file)."""
    model, metadata = exact_network(widths=(8, 16, 16))
    path = tmp_path_factory.mktemp("bench") / "net.bnext"
    file.write(path, *pack(model, metadata))
    return model, path


def test_all_contenders_compute_the_same_logits(packed, without_onnx, tmp_path):
    model, path = packed
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3), np.float32)
    expected = logits(model, images)
    found, missing = contenders.all_of(path, 1, 16, tmp_path)
    names = [contenders.C, contenders.XLA, contenders.FLOAT, contenders.TORCH, contenders.TORCH_LAST]
    assert [one.name for one in found] == names
    for one in found:
        assert np.abs(np.asarray(one.run(one.prepare(images))) - expected).max() <= 1e-4 * expected.std(), one.name
    assert missing == ["onnxruntime: onnx, onnxruntime is not installed; install bnext_jax with its extra [bench]"]


def test_the_command_measures_on_the_processors_that_it_is_told(packed, without_onnx, run):
    before = os.sched_getaffinity(0)
    words = ("--threads=1", "--rounds=2", "--batch=1,3", "--resolution=16")
    code, result, error = run("bench", f"--checkpoint={packed[1]}", *words)
    assert code == 0, error
    assert os.sched_getaffinity(0) == before
    assert result["pixels"] == 16 and list(result["threads"]) == ["1"] and set(result["threads"]["1"]) == {"1", "3"}
    for values in result["threads"]["1"].values():
        assert all(0 < one["best"] <= one["median"] for one in values.values())
    assert "not measured: onnxruntime" in error and "packed, C" in error


def test_a_model_by_name_and_both_numbers_of_processors_in_processes_of_their_own(run, monkeypatch):
    from bnext_jax.commands import bench

    asked = []

    def child(path, side, batch, threads, rounds):
        asked.append((side, tuple(batch), threads, rounds))
        assert file.read_description(path)["model"]["name"] == "bnext18"
        return {"threads": {str(threads): {}}, "missing": ["x"]}

    monkeypatch.setattr(bench, "_in_process", child)
    code, result, error = run("bench", "--model=bnext18")
    assert code == 0, error
    counts = sorted({1, len(os.sched_getaffinity(0))})
    assert asked == [(224, (1, 8), count, 7) for count in counts]
    assert list(result["threads"]) == [str(count) for count in counts] and result["missing"] == ["x"]


def test_the_figures_are_milliseconds_an_image(monkeypatch):
    now = iter([0.0, 1.0, 1.3, 2.0, 2.1, 3.0, 3.2])  # the start of the run that compiles; start and end of three rounds
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: None)
    runs = []
    one = contenders.Contender("x", lambda images: images, runs.append)
    found = measure.alternate([one], np.zeros((2, 8, 8, 3)), 3)
    assert found == {"x": {"median": 100.0, "best": 50.0}}
    assert len(runs) == 1 + 2 * 3  # before each of the three measurements one run that does not count
    rows = measure.rows({"2": {"x": {"median": 100.0, "best": 50.0}, "y": {"median": 400.0, "best": 300.0}}}, "y")
    assert rows[1:] == [["2", "x", "100.00", "50.00", "4.00"], ["2", "y", "400.00", "300.00", "1.00"]]


def test_bad_input_is_one_sentence(packed, run):
    refused(run("bench"), "bench needs --checkpoint=PATH or --model=NAME")
    refused(run("bench", f"--checkpoint={packed[1]}", "--rounds=0"), "--rounds is 0; it must be 1 or more")
    refused(run("bench", f"--checkpoint={packed[1]}", "--threads=1000"), "this process may use")
    refused(run("bench", "--model=efficientnet_b0"), "has no binary weights; there is nothing to pack")
