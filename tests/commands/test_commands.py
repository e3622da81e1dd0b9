"""The command line: it refuses bad input with one sentence and exit code 2. Each command runs once as a real process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from bnext_jax.cli import main
from bnext_jax.distill import schedule
from tests.helpers.commands import ROOT, SMOKE, command, refused, result_of


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fly"], ["unknown command 'fly'", "train, evaluate"]),
        (["train"], ["train needs --config, --workdir"]),
        (["train", SMOKE], ["train needs --workdir"]),
        (["train", SMOKE, "--workdir=x", "--speed=9"], ["train has no flag --speed"]),
        (["train", "--config=configs/nothing.py", "--workdir=x"], ["configs/nothing.py"]),
        (["train", "--config=configs/digits_student.py:tiny", "--workdir=x"], ["unknown form 'tiny'"]),
        (["train", SMOKE, "--workdir=x", "--config.epoch=3"], ["there is no field config.epoch; did you mean config.epochs?"]),
        (["train", SMOKE, "--workdir=x", "--config.epochs=many"], ["epochs", "many"]),
        (["train", SMOKE, "--workdir=x", "--config.model.name=vgg"], ["config.model.name is 'vgg'"]),
        (["train", SMOKE, "--workdir=x", "photo.png"], ["takes no file names", "photo.png"]),
        (["evaluate", "--checkpoint=/nowhere/at/all"], ["/nowhere/at/all does not exist"]),
        (["count", "--model=vgg"], ["no model 'vgg'"]),
        (["count", "--model=bnext"], ["bnext has no widths of its own; add --widths"]),
        (["plot", "curves", "--workdir=/nowhere"], ["/nowhere holds no logs"]),
        (["plot", "pies", "--workdir=/nowhere"], ["plot draws: curves, features, augmentation, comparison, report; got pies"]),
        (["quickstart", "--seed=x"], ["--seed 'x'"]),
        (["quickstart", "--seed=-1"], ["config.seed is -1"]),
    ],
)
def test_bad_input_is_reported_in_one_sentence(run, words, parts):
    refused(run(*words), *parts)


def test_a_config_file_that_fails_is_reported_with_its_line(run, tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(form=''):\n    return [][3]\n")
    refused(run("train", f"--config={tmp_path / 'mine.py'}", "--workdir=x"), "mine.py:2: IndexError: list index out of range")


def test_a_picture_needs_a_file_ending(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "epoch": 1}\n')
    refused(run("plot", "curves", f"--workdir={tmp_path}", f"--output={tmp_path / 'curves'}"), "needs one of the endings .png, .svg, .pdf")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--config.data.name=imagenet_9000"], ["dataset imagenet_9000 is not in", "bnext prepare"]),
        (["--config.batch_size=65", "--config.batch_norm_group=13", "--config.data.train_split=none"], ["no split 'none'"]),
        (["--config.batch_size=64", "--config.batch_norm_group=48"], ["does not divide into groups"]),
        (["--config.batch_size=5000"], ["batch_size 5000 is larger than the 1437 images"]),
        (["--config.data.train_transform=resize(9)"], ["9x9 map"]),
        (["--config.data.train_transform=swirl"], ["'swirl' in 'swirl' is unknown"]),
        (["--config.model.widths=(8,12)"], ["not a BNext"]),
        (["--config.distill.main=/nowhere"], ["config.distill: /nowhere does not exist"]),
        (["--config.init=/nowhere"], ["config.init: /nowhere does not exist"]),
        (["--config.precision=float64"], ["JAX_ENABLE_X64"]),
        (["--config.seed=-1"], ["config.seed is -1"]),
    ],
)
def test_an_impossible_run_is_refused_before_compilation(run, digits, tmp_path, change, parts):
    outcome = run(
        "train", SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}", "--config.tensorboard=False", *change
    )
    refused(outcome, *parts)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    from bnext_jax.errors import UserError
    from bnext_jax.training.mesh import check_batch

    with pytest.raises(UserError, match="batch_size 100 is not divisible by the 8 devices"):
        check_batch("batch_size", 100, None, 8)
    with pytest.raises(UserError, match="batch_norm_group 24 and the 16 examples of each device"):
        check_batch("batch_size", 128, 24, 8)
    for group in (None, 4, 16, 32, 128):
        check_batch("batch_size", 128, group, 8)


def test_a_teacher_with_other_classes_is_refused(digits, tmp_path, run, monkeypatch):
    described = {"model": {"name": "bnext18", "num_classes": 2}, "class_names": ["cat", "dog"], "preprocessing": {}}
    monkeypatch.setattr(schedule, "load", lambda path, form, hint: (None, described))
    outcome = run("train", SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}", "--config.distill.main=teacher")
    refused(outcome, "the teacher in teacher knows 2 classes, the dataset has 10")


def test_resuming_another_run_names_the_fields_that_differ(run, digits, tmp_path):
    words = ["train", SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}", "--config.data.train_split=none"]
    refused(run(*words), "no split")
    refused(run(*words, "--config.seed=6"), "no split")  # no checkpoint exists yet, so settings may change
    (tmp_path / "run/checkpoints/22").mkdir(parents=True)
    outcome = run(*words, "--config.seed=7", "--config.optimizer.learning_rate=0.5")
    refused(outcome, "config.optimizer.learning_rate (was 0.005, now 0.5)", "config.seed (was 6, now 7)")


def test_a_folder_with_other_files_is_not_used_as_work_directory(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter one")
    refused(run("train", SMOKE, f"--workdir={tmp_path}"), "is not empty and holds no bnext run")
    assert (tmp_path / "thesis.tex").read_text() == "chapter one"
    refused(run("evaluate", f"--checkpoint={tmp_path}"), "holds no checkpoint")


@pytest.mark.parametrize("place", ["a_file/run", "/sys/bnext_run"])
def test_a_work_directory_that_cannot_be_created_is_reported(run, tmp_path, place):
    (tmp_path / "a_file").write_text("")
    refused(run("train", SMOKE, f"--workdir={tmp_path / place}"), "cannot be used")


def test_commands_as_processes_print_only_their_result_to_standard_output(digits, tmp_path):
    data = ["--config.tensorboard=False", f"--config.data.directory={digits}"]
    assert result_of(command("prepare", SMOKE, *data))["splits"] == {"train": 1437, "test": 360}
    trained = command("train", SMOKE, f"--workdir={tmp_path / 'run'}", *data)
    assert result_of(trained)["finished"] is True
    lines = [line for line in trained.stderr.splitlines() if line.startswith("train: epoch")]
    assert len(lines) == 2 and all("left" in line for line in lines)  # log lines with the remaining time
    assert result_of(command("evaluate", f"--checkpoint={tmp_path / 'run'}"))["examples"] == 360
    assert result_of(command("count", "--model=bnext_tiny"))["bnext_tiny"]["parameters"] == 30_862_236
    assert pathlib.Path(result_of(command("plot", "curves", f"--workdir={tmp_path / 'run'}"))["picture"]).exists()


def test_a_checkpoint_that_cannot_be_written_is_reported_and_leaves_nothing(digits, tmp_path):
    words = [
        "train", SMOKE, f"--workdir={tmp_path / 'run'}", "--config.tensorboard=False", f"--config.data.directory={digits}",
    ]  # fmt: skip
    limited = [
        "bash",
        "-c",
        'ulimit -f 20; exec "$@"',
        "limited",
        sys.executable,
        "main.py",
        *words,
    ]  # writing more than 20 KiB to a file fails, as on a full disk
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}
    done = subprocess.run(limited, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "could not be written to" in done.stderr.splitlines()[-1] and not done.stdout
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit()] == []


def test_quickstart_reports_student_teachers_and_size_and_draws_the_curves(digits, tmp_path, monkeypatch):
    import bnext_jax.commands.quickstart as quickstart
    from bnext_jax.config import DataConfig

    made = quickstart.configs

    def in_folder(root, seed, form):
        configs = made(root, seed, form)
        for config in configs.values():
            object.__setattr__(config.data, "directory", digits)
        return configs

    monkeypatch.setattr(quickstart, "configs", in_folder)
    assert DataConfig().directory == ""
    result = quickstart.quickstart(tmp_path / "quick", form="smoke")
    assert set(result["teachers"]) == {"assistant", "main"} and result["binary"] is True
    assert result["bytes"] == result["binary_weights"] // 8 + 4 * (result["parameters"] - result["binary_weights"])
    assert pathlib.Path(result["picture"]).read_bytes().startswith(b"\x89PNG")


def test_quickstart_told_to_stop_trains_no_student_from_a_half_trained_teacher(tmp_path, monkeypatch, capsys):
    import bnext_jax.commands.quickstart as quickstart

    trained = []

    def stopped(config, workdir):
        trained.append(workdir)
        return {"steps": 7, "finished": False, "workdir": workdir, "exit_code": 75}

    monkeypatch.setattr(quickstart, "prepare", lambda data: None)
    monkeypatch.setattr(quickstart, "train", stopped)
    assert main(["bnext", "quickstart", f"--workdir={tmp_path}/quick"]) == 75
    assert trained == [f"{tmp_path}/quick/assistant"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"steps": 7, "finished": False, "workdir": f"{tmp_path}/quick"}
