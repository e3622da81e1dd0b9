"""A work directory belongs to one run and one dataset; what a crash left of its configuration is recovered."""

import json
import shutil

import pytest

from bnext_jax.io.paths import to_path
from bnext_jax.training.lock import lock
from tests.helpers.commands import SMOKE, refused
from tests.helpers.launcher import free_port
from tests.helpers.photographs import TINY

SHORT = ["--config.model.widths=(8,8)", "--config.tensorboard=False"]
SMALL = [
    "--config.data.name=birds", "--config.data.eval_split=validation", "--config.batch_size=4", "--config.eval_batch_size=4",
    "--config.data.train_transform=resize(16)|center_crop(16)", "--config.data.eval_transform=resize(16)|center_crop(16)",
    "--config.model.widths=(8,8)", "--config.tensorboard=False", "--config.checkpoint.every_steps=1",
]  # fmt: skip
TRAINED = "is not the one that {run} was trained on: {what}; bring the old one back, or start again in a new --workdir"


def birds(root, classes, count, first=0):
    """Writes class folders with `count` training images a class; image i of class k is photograph (first + i + k) mod 8."""
    for split, number in (("train", count), ("val", 2)):
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                (root / split / name / f"{i}.jpg").write_bytes(TINY[(first + i + k) % len(TINY)])
    return root


@pytest.fixture
def begun(run, digits, tmp_path):
    """(words, work directory) of a run on digits that was stopped after two steps."""
    words = ["train", SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}", *SHORT]
    assert run(*words, "--config.stop_at_step=2")[0] == 0
    return words, tmp_path / "run"


def test_a_second_run_in_a_work_directory_is_refused_before_the_first_checkpoint(run, digits, tmp_path):
    (tmp_path / "run").mkdir()
    held = lock(to_path(tmp_path / "run"))  # a first run, that compiles
    words = ["train", SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}", *SHORT]
    for more in ([], ["--config.seed=1"]):
        refused(run(*words, *more), f"{tmp_path / 'run'} is locked by a run (process ", "which is still at work")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    held.close()
    assert run(*words, "--config.stop_at_step=1")[0] == 0
    assert not (tmp_path / "run/.lock").exists()


@pytest.mark.parametrize("damage", ["empty", "missing", "half"])
def test_a_damaged_configuration_is_taken_from_the_checkpoints(run, begun, damage, caplog):
    words, workdir = begun
    path, whole = workdir / "config.json", (workdir / "config.json").read_text()
    path.unlink() if damage == "missing" else path.write_text("" if damage == "empty" else whole[:100])
    told = f"{path} is missing or damaged; its settings are taken from the newest checkpoint"
    refused(run(*words, "--config.seed=7"), "holds a run with other settings: config.seed (was 0, now 7)")
    assert told in caplog.text
    code, result, error = run(*words, "--config.stop_at_step=3")
    assert code == 0 and result["steps"] == 3, error
    assert json.loads(path.read_text()) == {**json.loads(whole), "stop_at_step": 3}


@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "{half", "[1]"])
def test_a_folder_with_another_programs_configuration_is_refused_untouched(run, digits, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    words = ["train", SMOKE, f"--workdir={tmp_path}", f"--config.data.directory={digits}"]
    refused(run(*words), f"{tmp_path} is not empty and holds no bnext run")
    assert (tmp_path / "config.json").read_text() == content and len(list(tmp_path.iterdir())) == 2


def test_a_converted_network_is_no_work_directory_to_train_in(run, begun, tmp_path):
    words, workdir = begun
    assert run("convert", f"--source={workdir}", f"--output={tmp_path / 'x.safetensors'}")[0] == 0
    assert run("convert", f"--source={tmp_path / 'x.safetensors'}", f"--output={tmp_path / 'new'}")[0] == 0
    words[2] = f"--workdir={tmp_path / 'new'}"
    refused(
        run(*words),
        f"{tmp_path / 'new'} holds a network that no run here trained; take another --workdir, and name this one as config.init",
    )


def test_a_dataset_that_changed_under_its_name_is_refused_with_what_differs(run, tmp_path):
    words = [SMOKE, f"--config.data.directory={tmp_path / 'data'}", *SMALL]

    def prepared(name, *arguments):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        code, result, error = run("prepare", *words, f"--source={birds(tmp_path / name, *arguments)}")
        assert code == 0, error
        return result["sha256"]

    def train(*more):
        return run("train", *words, f"--workdir={tmp_path / 'run'}", *more)

    def differs(what):
        refused(train(), "the dataset birds " + TRAINED.format(run=tmp_path / "run", what=what))

    first = prepared("first", ("owl", "tit"), 3)
    assert train("--config.stop_at_step=1")[0] == 0
    for name, arguments, what in (
        ("renamed", (("owl", "wren"), 3), "class 1 was tit, now wren"),
        ("classes", (("owl", "tit", "wren"), 3), "it had 2 classes, now 3; train had 6 images, now 9"),
        ("more", (("owl", "tit"), 4), "train had 6 images, now 8"),
        ("others", (("owl", "tit"), 3, 4), "its files have other contents or another order"),
    ):
        assert prepared(name, *arguments) != first
        differs(what)
    assert prepared("again", ("owl", "tit"), 3) == first
    code, result, error = train()
    assert code == 0 and result["steps"] == 2, error


def test_a_split_without_labels_is_refused_for_training_and_for_evaluation(run, digits, monkeypatch, tmp_path, begun):
    from bnext_jax.data import splits

    real = splits.open_source

    def unlabelled(data, split):
        source = real(data, split)
        hidden = [{**source.records[i], "label": -1} for i in range(8)]
        return splits.Source(source.name, split, hidden if split == "test[:8]" else source.records, source.class_names)

    monkeypatch.setattr(splits, "open_source", unlabelled)
    told = " of digits's split 'test[:8]' has the label -1, which is none of the 10 classes: the split is not labelled"
    more = [f"--config.data.directory={digits}", "--config.batch_size=4", *SHORT]
    for field in ("train_split", "eval_split"):
        refused(run("train", SMOKE, f"--workdir={tmp_path / field}", *more, f"--config.data.{field}=test[:8]"), told)
    refused(run("evaluate", f"--checkpoint={begun[1]}", SMOKE, *more, "--config.data.eval_split=test[:8]"), told)


def test_a_foreign_folder_stays_as_it_is_also_if_several_processes_name_it(launcher, digits, tmp_path):
    """Processes compile small programs to talk to each other; those must not be kept in the folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    words = ["train", SMOKE, f"--workdir={tmp_path / 'mine'}", f"--config.data.directory={digits}", *SHORT]
    pids = [launcher.start(words, tmp_path / str(i), {**shared, "JAX_PROCESS_ID": str(i)}) for i in range(2)]
    assert [launcher.end(pid) for pid in pids] == [2, 2]
    assert all("is not empty and holds no bnext run" in (tmp_path / f"{i}.err").read_text() for i in range(2))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
