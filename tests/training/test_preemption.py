"""Real runs that receive SIGTERM or SIGKILL at any moment lose only the steps since their last save."""

import json
import os
import pathlib
import random
import shutil
import signal
import time

import numpy as np
import pytest

from bnext_jax.io import checkpoint
from bnext_jax.io.logs import read_metrics
from tests.helpers.checkpoints import assert_same_state
from tests.helpers.launcher import free_port, wait_for

KILLS = 20
STEPS = 16  # two epochs of 512 // 64 = 8 batches
SAVED_EVERY = 3


@pytest.fixture(scope="module")
def words(digits):
    """words(workdir, more...): the command line of a short run that saves every SAVED_EVERY steps."""

    def make(workdir, *more):
        return [
            "train", "--config=configs/digits_student.py:smoke", f"--workdir={workdir}", f"--config.data.directory={digits}",
            "--config.model.widths=(8,8)", "--config.data.train_split=train[:512]", "--config.data.eval_split=test[:120]",
            f"--config.checkpoint.every_steps={SAVED_EVERY}", "--config.checkpoint.keep_latest=3", *more,
        ]  # fmt: skip

    return make


@pytest.fixture(scope="module")
def whole(launcher, words, tmp_path_factory):
    """The work directory of a run without interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert launcher.end(launcher.start(words(folder / "run"), folder / "output")) == 0, result(folder / "output")
    return folder / "run"


def steps(workdir):
    """The steps of the committed checkpoints, sorted."""
    return sorted(int(entry.name) for entry in pathlib.Path(workdir).glob("checkpoints/*") if entry.name.isdigit())


def result(output):
    """(JSON object on standard output or None, standard error) of a process, as far as it is written."""
    out, err = (pathlib.Path(f"{output}{ending}") for ending in (".out", ".err"))
    text = out.read_text().strip() if out.exists() else ""
    return json.loads(text) if text else None, err.read_text() if err.exists() else ""


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_run_killed_twenty_times_ends_bit_for_bit_as_the_uninterrupted_one(launcher, words, whole, tmp_path):
    output, draws = tmp_path / "output", random.Random(11)
    began = time.monotonic()
    assert launcher.end(launcher.start(words(tmp_path / "again"), output)) == 0
    took = time.monotonic() - began  # without compilation: the cache has all programs
    runs, kills, in_saves = [], 0, 0
    while kills < KILLS or steps(runs[-1])[-1:] != [STEPS]:
        if not runs or steps(runs[-1])[-1:] == [STEPS]:
            runs.append(tmp_path / f"run{len(runs)}")
        before = max(steps(runs[-1]), default=0)
        pid = launcher.start(words(runs[-1]), output)
        if kills < KILLS:
            if kills % 4:
                time.sleep(draws.uniform(0.2, 0.75) * took)
            else:
                wait_for(lambda pid=pid, run=runs[-1]: unfinished(run) or not alive(pid))
            os.kill(pid, signal.SIGKILL)
            in_saves += bool(unfinished(runs[-1]))
        code = launcher.end(pid)
        assert code in (0, -signal.SIGKILL), result(output)
        kills += code != 0
        assert max(steps(runs[-1]), default=0) >= before
    assert in_saves >= KILLS // 8
    for run in runs:
        assert_same_state(run, whole, STEPS)
        lines = [(line["step"], line["test_top1"]) for line in read_metrics(run)]
        assert lines == [(line["step"], line["test_top1"]) for line in read_metrics(whole)] and len(lines) == 2


def unfinished(workdir):
    """The names of saves that have begun and not ended."""
    return [entry.name for entry in workdir.glob("checkpoints/*") if "orbax-checkpoint-tmp" in entry.name]


def alive(pid):
    """Whether a process that the launcher started still runs. A zombie has ended."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_sigterm_saves_and_exits_with_code_75_and_the_run_resumes(launcher, words, whole, tmp_path):
    run = tmp_path / "run"
    more = ["--config.data.workers=1"]
    pid = launcher.start(words(run, *more), tmp_path / "told")
    wait_for(lambda: steps(run))
    for worker in workers_of(pid):
        os.kill(worker, signal.SIGTERM)  # a machine that shuts down sends SIGTERM to every process
    os.kill(pid, signal.SIGTERM)
    code = launcher.end(pid)
    told, error = result(tmp_path / "told")
    assert code == 75, error
    saved = steps(run)[-1]
    assert told == {"steps": saved, "finished": False, "workdir": str(run)} and saved < STEPS
    assert f"told to stop after step {saved} of {STEPS}" in error
    assert launcher.end(launcher.start(words(run, *more), tmp_path / "on")) == 0
    assert f"resuming {run} at step {saved} of {STEPS}" in result(tmp_path / "on")[1]
    assert_same_state(run, whole, STEPS)


def workers_of(pid):
    """The process ids of a run's data workers."""
    children = [path.read_text().split() for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for some in children for child in some]


def test_the_data_workers_of_a_killed_run_end(launcher, words, tmp_path):
    pid = launcher.start(words(tmp_path / "run", "--config.data.workers=2"), tmp_path / "killed")
    wait_for(lambda: len(workers_of(pid)) >= 2)
    workers = workers_of(pid)
    os.kill(pid, signal.SIGKILL)
    launcher.end(pid)
    wait_for(lambda: not any(pathlib.Path(f"/proc/{worker}").exists() and alive(worker) for worker in workers), seconds=20)


def several(launcher, words, output, settings, count=2):
    """Starts the processes of one run. Returns (process ids, output paths)."""
    port = free_port()
    outputs = [f"{output}{process}" for process in range(count)]
    pids = [
        launcher.start(
            words,
            path,
            environment={"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(process)},
            settings=settings,
        )
        for process, path in enumerate(outputs)
    ]
    return pids, outputs


def test_two_processes_stop_together_one_or_two_resume_and_evaluation_agrees(launcher, words, digits, tmp_path):
    wide = {"jax_enable_x64": True}
    line = words(tmp_path / "run", "--config.precision=float64", "--config.mesh=shard=2", "--config.batch_norm_group=32")
    pids, outputs = several(launcher, line, tmp_path / "first", wide)
    wait_for(lambda: "compiled" in result(outputs[0])[1] or not alive(pids[0]))
    os.kill(pids[1], signal.SIGTERM)  # only one of the two
    assert [launcher.end(pid) for pid in pids] == [75, 75], result(outputs[0])[1] + result(outputs[1])[1]
    told, (silent, _) = result(outputs[0])[0], result(outputs[1])
    assert silent is None and told["finished"] is False and steps(tmp_path / "run")[-1] == told["steps"] < STEPS

    shutil.copytree(tmp_path / "run", tmp_path / "both")
    pids, outputs = several(launcher, [word.replace(str(tmp_path / "run"), str(tmp_path / "both")) for word in line], tmp_path / "on", wide)
    assert [launcher.end(pid) for pid in pids] == [0, 0], result(outputs[0])[1] + result(outputs[1])[1]
    together = result(outputs[0])[0]

    # resumed with another number of processes: the same images in the same order, and in float64 the same loss
    changed = words(tmp_path / "run", "--config.precision=float64", "--config.batch_norm_group=32")
    assert launcher.end(launcher.start(changed, tmp_path / "alone", settings=wide)) == 0, result(tmp_path / "alone")[1]
    whole = words(tmp_path / "whole", "--config.precision=float64", "--config.batch_norm_group=32")
    assert launcher.end(launcher.start(whole, tmp_path / "whole", settings=wide)) == 0
    finished, expected = result(tmp_path / "alone")[0], result(tmp_path / "whole")[0]
    assert (finished["steps"], finished["top1"], finished["examples"]) == (STEPS, expected["top1"], 120)
    assert finished["loss"] == pytest.approx(expected["loss"], rel=1e-9)
    assert together["steps"] == STEPS and together["loss"] == pytest.approx(expected["loss"], rel=1e-9)

    line = ["evaluate", f"--checkpoint={tmp_path / 'whole'}", f"--predictions={tmp_path / 'rows.csv'}"]
    pids, outputs = several(launcher, line, tmp_path / "evaluate", wide)
    assert [launcher.end(pid) for pid in pids] == [0, 0], result(outputs[-1])[1]
    found = result(outputs[0])[0]
    assert (found["top1"], found["top5"], found["examples"]) == (expected["top1"], expected["top5"], 120)
    assert result(outputs[1])[0] is None
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == list(map(str, range(120)))
    right = sum(row.split(",")[2] == row.split(",")[3] for row in rows[1:])
    assert 100 * right / 120 == pytest.approx(expected["top1"])


def test_processes_with_different_settings_are_refused_before_compilation(launcher, words, tmp_path):
    port, outputs = free_port(), [str(tmp_path / name) for name in "ab"]
    pids = []
    for process, output in enumerate(outputs):
        environment = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(process)}
        pids.append(launcher.start(words(tmp_path / "run", f"--config.seed={process}"), output, environment))
    assert [launcher.end(pid) for pid in pids] == [2, 2]
    for output in outputs:
        _, error = result(output)
        assert "processes 0 and 1 do not run the same: config.seed (0 and 1), initial weights ('" in error.splitlines()[-1]
        assert "compiled" not in error
    assert not np.any(steps(tmp_path / "run"))


def test_an_error_in_one_process_ends_all_and_a_lost_process_is_reported(launcher, words, tmp_path):
    missing = words(tmp_path / "run", "--config.distill.main=/nowhere")
    pids, outputs = several(launcher, missing, tmp_path / "missing", {})
    assert [launcher.end(pid) for pid in pids] == [2, 2]
    assert all("/nowhere does not exist" in result(output)[1].splitlines()[-1] for output in outputs)

    pids, outputs = several(launcher, words(tmp_path / "lost"), tmp_path / "lost", {})
    wait_for(lambda: steps(tmp_path / "lost"))
    os.kill(pids[1], signal.SIGKILL)
    assert launcher.end(pids[1]) == -signal.SIGKILL
    code = launcher.end(pids[0])
    assert code == 75, result(outputs[0])[1]
    assert "another process of the run ended" in result(outputs[0])[1]
    assert checkpoint.committed_steps(tmp_path / "lost")
