"""`bench`: every contender computes the same network, and the figures are medians and minima of what the clock said."""

import importlib.util
import os
import sys

import numpy as np
import pytest

from bnext_jax.bench import child, contenders, measure
from bnext_jax.commands import bench
from bnext_jax.errors import UserError
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


def test_the_child_measures_each_batch(packed, without_onnx, capsys):
    result = child.measured(packed[1], 16, [1, 3], 1, 2)
    assert set(result["milliseconds"]) == {"1", "3"}
    for values in result["milliseconds"].values():
        assert contenders.C in values and all(0 < one["best"] <= one["median"] for one in values.values())
    error = capsys.readouterr().err
    assert "not measured: onnxruntime" in error and "packed, C" in error and "16 x 16 pixels, 1 processor\n" in error


def test_every_thread_of_a_measurement_has_the_chosen_processors():
    code = "import glob, jax; jax.numpy.ones((300, 300)).sum().block_until_ready()\n"
    code += "for name in glob.glob('/proc/self/task/*/status'):\n"
    code += "    print(next(line.split()[1] for line in open(name) if line.startswith('Cpus_allowed_list')))"
    masks = set(bench.pinned([sys.executable, "-c", code], 1).split())
    assert masks == {str(max(os.sched_getaffinity(0)))}
    with pytest.raises(UserError, match="ended with code 3; its message stands above"):
        bench.pinned([sys.executable, "-c", "raise SystemExit(3)"], 1)


def test_a_model_by_name_once_with_one_processor_and_once_with_all(run, monkeypatch):
    asked = []

    def pinned(command, count):
        asked.append((command[-4:], count))
        assert file.read_description(command[-5])["model"]["name"] == "bnext18"
        return 'a line\n{"milliseconds": {"1": {}}, "missing": ["x"]}\n'

    monkeypatch.setattr(bench, "pinned", pinned)
    code, result, error = run("bench", "--model=bnext18")
    assert code == 0, error
    counts = sorted({1, len(os.sched_getaffinity(0))})
    assert asked == [(["224", "1,8", str(count), "7"], count) for count in counts]
    assert list(result["threads"]) == [str(count) for count in counts] and result["missing"] == ["x"]
    assert run("bench", "--model=bnext18", "--threads=1", "--batch=2", "--resolution=64", "--rounds=3")[0] == 0
    assert asked[-1] == (["64", "2", "1", "3"], 1)


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
