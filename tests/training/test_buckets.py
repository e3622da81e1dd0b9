"""A life in a bucket, on a storage emulator: the same results as on a disk, also after kills and outages; refusals in one sentence."""

import itertools
import json
import os
import pathlib
import signal
import threading
import time

import pytest

from bnext_jax.io.paths import to_path
from tests.helpers.checkpoints import assert_same_state
from tests.helpers.launcher import free_port, wait_for
from tests.helpers.photographs import TINY
from tests.helpers.storage import BUCKET, Storage

pytestmark = [pytest.mark.bucket, pytest.mark.filterwarnings("ignore:Sharding info not provided")]
STEPS = 16  # two epochs of 512 // 64 = 8 batches
SAME = ("top1", "top5", "loss", "examples", "steps", "binary")
GCSFS_SILENCE = 40  # seconds in which a command must have told that a bucket is silent: 30, and its own start


@pytest.fixture(scope="module")
def storage():
    with Storage() as started:
        yield started


@pytest.fixture(autouse=True)
def clients(storage, monkeypatch):
    """This process reads the emulator too."""
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def start(launcher, storage, tmp_path_factory):
    """start(words...) begins a command. It returns a function that waits for the end: (exit code, result or None, standard error)."""
    folder, number = tmp_path_factory.mktemp("outputs"), itertools.count()

    def call(*words, **environment):
        output = folder / str(next(number))
        pid = launcher.start(words, output, {**storage.environment, **environment})

        def end():
            code = launcher.end(pid)
            text = pathlib.Path(f"{output}.out").read_text().strip()
            return code, json.loads(text) if text else None, pathlib.Path(f"{output}.err").read_text()

        end.pid = pid
        return end

    return call


def words(workdir, data, *more):
    return [
        "train", "--config=configs/digits_student.py:smoke", f"--workdir={workdir}", f"--config.data.directory={data}",
        "--config.model.widths=(8,8)", "--config.data.train_split=train[:512]", "--config.data.eval_split=test[:120]",
        "--config.checkpoint.every_steps=3", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(start, digits, tmp_path_factory):
    """(work directory, result) of the run on a disk that the runs in the bucket must repeat."""
    folder = tmp_path_factory.mktemp("disk") / "run"
    code, result, error = start(*words(folder, digits))()
    assert code == 0, error
    return folder, result


@pytest.fixture(scope="module")
def data(start):
    """The digits, prepared into the bucket."""
    folder = f"gs://{BUCKET}/data"
    code, result, error = start("prepare", "--config=configs/digits_student.py:smoke", f"--config.data.directory={folder}")()
    assert code == 0 and result["splits"] == {"train": 1437, "test": 360}, error
    return folder


def last(error):
    """The last line that is not empty."""
    return error.strip().splitlines()[-1]


def steps(workdir):
    """The steps whose checkpoints are whole, sorted."""
    folder = to_path(workdir) / "checkpoints"
    found = list(folder.iterdir()) if folder.exists() else []
    return sorted(int(entry.name) for entry in found if entry.name.isdigit() and (entry / "commit_success.txt").exists())


def test_a_run_in_a_bucket_killed_three_times_ends_bit_for_bit_as_on_a_disk(start, data, whole):
    run = f"gs://{BUCKET}/killed"
    for least in (0, 3, 9):
        begun = start(*words(run, data))
        wait_for(lambda least=least: (steps(run) or [0])[-1] >= least and to_path(run).exists())
        time.sleep(0.3)
        os.kill(begun.pid, signal.SIGKILL)
        assert begun()[0] in (-signal.SIGKILL, 0)
    code, result, error = start(*words(run, data))()
    assert code == 0, error
    assert {key: result[key] for key in SAME} == {key: whole[1][key] for key in SAME}
    assert_same_state(run, whole[0], STEPS)
    assert not pathlib.Path("gs:").exists()


def test_networks_go_into_and_out_of_a_bucket_and_give_the_same_answers(start, whole, data):
    place = f"gs://{BUCKET}/files"
    made = (f"{place}/x.pth.tar", f"{place}/x.safetensors", f"{place}/folder", f"{place}/x.bnext")
    for source, output in ((whole[0], made[0]), (made[0], made[1]), (made[1], made[2])):
        code, _, error = start("convert", f"--source={source}", f"--output={output}")()
        assert code == 0, error
        code, result, error = start("convert", f"--source={source}", f"--output={output}")()
        assert (code, result) == (2, None) and f"{output} exists" in error
    assert start("pack", f"--checkpoint={made[2]}", f"--output={made[3]}")()[0] == 0
    config = words("", data)[1:2] + words("", data)[3:7]
    for path in made:
        code, result, error = start("evaluate", f"--checkpoint={path}", *config, f"--predictions={place}/rows.csv")()
        assert code == 0 and result["top1"] == whole[1]["top1"] and result["examples"] == 120, error
    assert len((to_path(place) / "rows.csv").read_text().splitlines()) == 121


def test_what_lies_beside_weights_in_a_bucket_counts_under_its_own_name(start, whole, tmp_path):
    place = f"gs://{BUCKET}/beside"
    assert start("convert", f"--source={whole[0]}", f"--output={tmp_path / 'x.pth'}")()[0] == 0
    weights = to_path(place) / "x.pth"
    weights.write_bytes((tmp_path / "x.pth").read_bytes())
    photo = to_path(place) / "photo.jpg"
    photo.write_bytes(TINY[0])
    said = {"architecture": "bnext", "num_classes": 10, "mean": 0.25, "std": 0.5, "input_size": [3, 16, 16], "crop_pct": 1.0}
    (to_path(place) / "config.json").write_text(json.dumps(said))
    code, result, error = start("predict", f"--checkpoint={weights}", photo)()
    assert code == 0 and result["images"][0]["file"] == str(photo), error
    assert (result["preprocessing"]["mean"], result["preprocessing"]["from"]) == ([0.25] * 3, f"{place}/config.json")
    (to_path(place) / "config.json").write_text('{"architecture": "bnext", "mean": "x", "std": 1}')
    code, result, error = start("predict", f"--checkpoint={weights}", photo)()
    assert code == 2 and f"{place}/config.json says nothing usable of images" in last(error), error


def test_logs_curves_and_reports_are_written_into_the_bucket(start, data):
    run = f"gs://{BUCKET}/logs"
    assert start(*words(run, data, "--config.tensorboard=True", "--config.profile_at_step=2"))()[0] == 0
    assert start("plot", "curves", run)()[0] == 0
    code, _, error = start("plot", "report", f"--workdir={run}")()
    assert code == 0, error
    names = {entry.name for entry in to_path(run).iterdir()}
    assert {"metrics.jsonl", "config.json", "parameters.txt", "curves.png", "report.html", "profile", "checkpoints"} <= names
    assert any(name.startswith("events.out") for name in names)
    assert (to_path(run) / "report.html").read_text().rstrip().endswith("</html>")


def test_a_second_run_in_the_bucket_is_refused_while_the_first_lives(start, data):
    run = f"gs://{BUCKET}/locked"
    first = start(*words(run, data, "--config.epochs=200"))
    wait_for(lambda: (to_path(run) / ".lock").exists())
    code, result, error = start(*words(run, data, "--config.seed=1"))()
    assert (code, result) == (2, None) and f"{run} is locked by a run (process {first.pid} on" in error
    os.kill(first.pid, signal.SIGKILL)
    first()
    code, result, error = start(*words(run, data, "--config.epochs=200", "--config.stop_at_step=1"))()
    assert code == 0 and result["steps"] >= 1, error


def test_two_hosts_of_one_run_share_the_bucket_and_its_lock(start, data, whole):
    port, run = free_port(), f"gs://{BUCKET}/hosts"
    shared = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    hosts = [start(*words(run, data), **shared, JAX_PROCESS_ID=str(host)) for host in range(2)]
    (code, result, error), (other, nothing, _) = (host() for host in hosts)
    assert (code, other, nothing) == (0, 0, None), error
    assert result["steps"] == STEPS and steps(run)[-1] == STEPS


def test_an_outage_shorter_than_the_deadline_costs_nothing_but_time(start, storage, data, whole):
    run = f"gs://{BUCKET}/outage"
    begun = start(*words(run, data))
    wait_for(lambda: steps(run))
    storage.vanish()
    threading.Timer(8, storage.appear).start()
    code, result, error = begun()
    assert code == 0, error
    assert {key: result[key] for key in SAME} == {key: whole[1][key] for key in SAME}
    assert_same_state(run, whole[0], STEPS)


def test_a_bucket_that_stays_away_ends_the_run_with_75_and_it_resumes_later(start, storage, data, whole):
    run = f"gs://{BUCKET}/away"
    begun = start(*words(run, data))
    wait_for(lambda: steps(run))
    storage.vanish()
    silent = start(*words(run, data))  # a command that begins while it is away
    (code, result, error), told = begun(), silent()
    storage.appear()
    assert (code, result) == (75, None) and "has lost its bucket: start it again" in last(error)
    assert told[:2] == (2, None)
    assert last(told[2]).startswith(f"bnext: --workdir {run} cannot be reached (no answer within 30 s); check its name")
    assert start(*words(run, data))()[0] == 0
    assert_same_state(run, whole[0], STEPS)


@pytest.mark.parametrize("status", [403, 503])
def test_a_bucket_that_answers_with_an_error_is_told_within_the_deadline(start, storage, data, whole, status):
    storage.proxy.status = status
    commands = [words(f"gs://{BUCKET}/refused", data), ["evaluate", f"--checkpoint=gs://{BUCKET}/killed"]]
    commands.append(["convert", f"--source={whole[0]}", f"--output=gs://{BUCKET}/refused.safetensors"])
    begun = [start(*command) for command in commands]
    started = time.monotonic()
    ended = [end() for end in begun]
    storage.proxy.status = None
    assert time.monotonic() - started < 2 * GCSFS_SILENCE
    for (code, result, error), what in zip(ended, ("--workdir", "the network", "--output"), strict=True):
        line = last(error)
        assert (code, result) == (2, None) and line.startswith(f"bnext: {what} gs://{BUCKET}/") and "cannot be reached" in line, error
        assert "Traceback" not in error and ("Forbidden" in line or status == 503)


def test_a_run_whose_bucket_turns_it_away_in_the_middle_ends_with_75(start, storage, data):
    run = f"gs://{BUCKET}/turned_away"
    begun = start(*words(run, data))
    wait_for(lambda: steps(run))
    storage.proxy.status = 403
    code, result, error = begun()
    storage.proxy.status = None
    assert (code, result) == (75, None) and "has lost its bucket: start it again" in last(error), error
    assert "Traceback" not in error
