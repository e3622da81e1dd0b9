"""The whole life of a network in folders whose names are patterns for other programs: the same results as anywhere else."""

import pathlib

import pytest
from PIL import Image

from tests.helpers.commands import SMOKE, refused
from tests.helpers.photographs import TINY

ODD = "_a [lr=0.1] *?{b,c} $HOME é #1"
SHORT = ["--config.model.widths=(8,8)", "--config.data.train_split=train[:512]", "--config.data.eval_split=test[:120]"]
SAME = ("top1", "top5", "loss", "examples", "steps", "binary")


def life(run, folder):
    """Prepares, trains in two calls, evaluates, predicts, converts, packs and plots in a folder. Returns the results by name."""
    folder.mkdir()
    data = f"--config.data.directory={folder / 'data'}"
    photo = folder / "photo [1].jpg"
    photo.write_bytes(TINY[0])
    run_dir, found = folder / "run", {}

    def step(name, *words):
        code, found[name], error = run(*words)
        assert code == 0, error

    words = ["train", SMOKE, f"--workdir={run_dir}", data, *SHORT]
    step("prepare", "prepare", SMOKE, data)
    step("begin", *words, "--config.stop_at_step=5")
    step("train", *words)
    step("evaluate", "evaluate", f"--checkpoint={run_dir}", f"--predictions={folder / 'rows.csv'}")
    step("predict", "predict", f"--checkpoint={run_dir}", photo)
    step("to torch", "convert", f"--source={run_dir}", f"--output={folder / 'x.pth.tar'}")
    step("back", "convert", f"--source={folder / 'x.pth.tar'}", f"--output={folder / 'back'}")
    step("pack", "pack", f"--checkpoint={folder / 'back'}", f"--output={folder / 'x.bnext'}")
    step("packed", "evaluate", f"--checkpoint={folder / 'x.bnext'}", SMOKE, data, *SHORT)
    step("curves", "plot", "curves", run_dir, f"--output={folder / 'curves.png'}")
    step("report", "plot", "report", f"--workdir={run_dir}")
    step("count", "count", f"--checkpoint={folder / 'x.bnext'}", f"--output={folder / 'table.md'}")
    return found


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_whole_life_in_an_odd_folder_gives_the_same_as_in_a_plain_one(run, tmp_path):
    odd, plain = life(run, tmp_path / ODD), life(run, tmp_path / "plain")
    assert odd["train"]["steps"] == 16 and odd["train"]["finished"] and odd["evaluate"]["examples"] == 120
    for name in ("train", "evaluate", "packed"):
        assert {key: odd[name].get(key) for key in SAME} == {key: plain[name].get(key) for key in SAME}, name
    assert odd["prepare"]["sha256"] == plain["prepare"]["sha256"]  # the same bytes in the same order
    assert odd["predict"]["images"][0]["top5"] == plain["predict"]["images"][0]["top5"]
    assert odd["count"] == plain["count"]
    written = {name: sorted(str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).iterdir()) for name in (ODD, "plain")}
    assert written[ODD] == written["plain"] and "x.bnext" in written[ODD]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((ODD, "plain"))


def test_a_tilde_works_in_flags_and_in_fields(run, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(digits)
    code, result, error = run("train", SMOKE, "--workdir=~/run", "--config.data.directory=~/data", *SHORT, "--config.stop_at_step=2")
    assert code == 0 and result["workdir"] == f"{tmp_path}/run", error
    more = ["--config.init=~/run", "--config.distill.main=~/run", "--config.distill.assistants=('~/run',)"]
    code, result, error = run(
        "train", SMOKE, "--workdir=~/other", "--config.data.directory=~/data", *SHORT, *more, "--config.stop_at_step=1"
    )
    assert code == 0 and not list(pathlib.Path(tmp_path).rglob("~*")), error


def test_a_path_that_no_checkpoint_can_keep_is_refused_before_anything_is_written(run, digits, tmp_path):
    latin = bytes(tmp_path).decode() + "/caf\udce9"
    words = ["train", SMOKE, f"--workdir={latin}", f"--config.data.directory={digits}"]
    refused(run(*words), "--workdir ", "has bytes that are not UTF-8, which checkpoints cannot keep; rename the file or folder")
    refused(run(*words[:2], "--workdir=gs://bucket/run[1]"), "--workdir 'gs://bucket/run[1]' contains one of the characters")
    picture = tmp_path / "photo.png"
    Image.new("RGB", (4, 4)).save(picture)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
