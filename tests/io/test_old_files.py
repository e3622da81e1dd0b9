"""Work directories that older versions wrote (tests/fixtures): their networks give the same logits as then, and their runs resume.

Version 0.1 called the scale of a batch norm `gain`. Until 0.2 every network had a temperature, also a teacher (teacher_0_2, trained with
config.temperature.decay=0.8). The rest of their layout is the present one. Their checkpoints tell no checksum of their
dataset: the digits that two machines prepare need not be equal byte for byte.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest

from bnext_jax.io.load import load
from bnext_jax.io.logs import read_metrics
from tests.helpers.commands import SMOKE, refused

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
TEACHER = "--config=configs/digits_teacher.py:smoke"


@pytest.mark.parametrize("name", ["workdir_0_1", "quantized_0_1"])
def test_a_network_of_version_0_1_gives_the_same_logits_as_then(name):
    with np.load(FIXTURES / "logits_0_1.npz") as stored:
        images, expected = stored["images"], stored[name]
    model, metadata = load(FIXTURES / name)
    assert "format" not in metadata
    assert np.abs(np.asarray(model(images)) - expected).max() <= 1e-4 * expected.std()


def test_a_run_of_version_0_1_resumes_with_its_optimizer_and_log(run, digits, tmp_path, caplog):
    folder = shutil.copytree(FIXTURES / "workdir_0_1", tmp_path / "run")
    code, result, error = run("train", SMOKE, f"--workdir={folder}", f"--config.data.directory={digits}")
    assert code == 0, error
    assert "at step 22 of 44" in caplog.text and "cannot be read" not in caplog.text
    assert (result["steps"], result["finished"], result["binary"], result["images"]) == (44, True, True, 22 * 64)
    first, second = read_metrics(folder)
    assert first == json.loads((FIXTURES / "workdir_0_1/metrics.jsonl").read_text()) and second["epoch"] == 2
    assert second["train_loss"] == pytest.approx(2.0354, abs=0.05)  # the loss with version 0.1; on another processor a sign may flip


def test_a_run_of_version_0_1_with_other_settings_is_refused_and_names_the_fields(run, digits, tmp_path):
    folder = shutil.copytree(FIXTURES / "workdir_0_1", tmp_path / "run")
    words = ["train", SMOKE, f"--workdir={folder}", f"--config.data.directory={digits}"]
    code, _, error = run(*words, "--config.seed=3", "--config.model.gate_bits=4")
    assert code == 2 and "config.model.gate_bits (was None, now 4), config.seed (was 0, now 3)" in error


def test_a_teachers_run_with_a_temperature_resumes_without_one(run, digits, tmp_path, caplog):
    folder = shutil.copytree(FIXTURES / "teacher_0_2", tmp_path / "run")
    old = json.loads((FIXTURES / "teacher_0_2/config.json").read_text())["temperature"]
    (first,) = read_metrics(folder)
    assert old == {"decay": 0.8, "exact_from": None} and first["temperature"] == 1
    assert load(folder)[1]["temperature"] is None
    code, evaluated, error = run("evaluate", f"--checkpoint={folder}", TEACHER, f"--config.data.directory={digits}")
    assert code == 0 and "temperature" not in evaluated, error
    words = ["train", TEACHER, f"--workdir={folder}", f"--config.data.directory={digits}"]
    refused(run(*words, "--config.temperature.decay=0.8"), "config.temperature.decay is 0.8, but convnext takes no temperature")
    code, result, error = run(*words)
    assert code == 0, error
    assert "at step 22 of 44" in caplog.text and (result["steps"], result["finished"]) == (44, True) and "temperature" not in result
    kept, second = read_metrics(folder)
    assert kept == first and "temperature" not in second
    assert json.loads((folder / "config.json").read_text())["temperature"] is None
    assert load(folder)[1]["temperature"] is None
