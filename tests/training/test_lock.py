"""One run at a time in a work directory, on a disk and in a bucket; a killed run keeps nobody out."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import fsspec
import pytest

from bnext_jax.errors import Unreachable, UserError
from bnext_jax.io import buckets
from bnext_jax.io.paths import to_path
from bnext_jax.training import lock as module
from bnext_jax.training.lock import BucketLock, DiskLock, lock

HOLD = (
    "import sys, time; from bnext_jax.training.lock import lock; from bnext_jax.io.paths import to_path; held = lock(to_path(sys.argv[1]));"
)
HOLD += "print('held', flush=True); time.sleep(600)"


@pytest.fixture
def bucket(monkeypatch):
    """A work directory in a bucket that lives in memory, with short times."""
    client = fsspec.filesystem("memory")
    client.store.clear()
    monkeypatch.setattr(buckets, "client", lambda place: client)
    monkeypatch.setattr(buckets, "patient", lambda place, work: work())
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "STALE", 0.5)
    return to_path("gs://bucket/run")


def lock_object(number):
    return json.loads(fsspec.filesystem("memory").cat_file(f"gs://bucket/run/.lock/{number:06d}"))


def another(**changes):
    """Writes lock number 3 as another process would."""
    content = {**module._owner(), "beat": 1, "released": False, **changes}
    fsspec.filesystem("memory").pipe_file("gs://bucket/run/.lock/000003", json.dumps(content).encode())


def gone_process():
    """The number of a process of this machine that has ended."""
    done = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
    done.start()
    done.join()
    return done.pid


def test_a_second_lock_on_a_disk_is_refused_until_the_first_is_closed(tmp_path):
    first = lock(to_path(tmp_path))
    assert isinstance(first, DiskLock)
    with pytest.raises(UserError, match=rf"is locked by a run \(process {os.getpid()} on .*\), which is still at work; wait for its end"):
        lock(to_path(tmp_path))
    first.close()
    assert not list(tmp_path.iterdir())
    lock(to_path(tmp_path)).close()


def test_a_killed_process_opens_its_lock_on_a_disk(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on"):
            lock(to_path(tmp_path))
        holder.send_signal(signal.SIGKILL)
    lock(to_path(tmp_path)).close()


def test_a_lock_file_removed_between_opening_and_locking_is_made_again(tmp_path, monkeypatch):
    real, removed = module.fcntl.flock, []

    def flock(file, how):
        if not removed:  # the former owner closes just now
            removed.append(os.unlink(tmp_path / module.LOCK))
        real(file, how)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    held = lock(to_path(tmp_path))
    with pytest.raises(UserError, match="is locked by a run"):
        lock(to_path(tmp_path))
    held.close()


def test_a_disk_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog):
    def flock(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    lock(to_path(tmp_path)).close()
    assert "cannot lock files ([Errno 38] Function not implemented): a second run in it would go unnoticed" in caplog.text


def test_a_lock_in_a_bucket_refuses_a_second_run_while_the_first_beats(bucket):
    first = lock(bucket)
    assert isinstance(first, BucketLock)
    with pytest.raises(UserError, match=r"gs://bucket/run is locked by a run \(process .*\), which is still at work"):
        lock(bucket)
    first.close()
    assert lock_object(1)["released"] is True
    second = lock(bucket)  # at once: the first has opened it
    second.check()
    assert lock_object(2)["released"] is False and len(fsspec.filesystem("memory").ls("gs://bucket/run/.lock")) == 1
    second.close()


def test_a_lock_of_a_process_that_ended_on_this_machine_is_taken_at_once(bucket, monkeypatch):
    monkeypatch.setattr(module, "STALE", 60)
    another(process=gone_process())
    began = time.monotonic()
    lock(bucket).close()
    assert time.monotonic() - began < 30 and lock_object(4)["process"] == os.getpid()


@pytest.mark.parametrize("changes", [{"host": "elsewhere", "process": 1}, {"system": "another boot"}])
def test_a_silent_lock_of_another_machine_is_taken_after_the_time_of_silence(bucket, changes):
    another(**changes)
    began = time.monotonic()
    lock(bucket).close()
    assert time.monotonic() - began >= 0.5 and lock_object(4)["released"] is True


def test_a_run_whose_lock_was_taken_stops_and_does_not_take_it_back(bucket):
    first = lock(bucket)
    fsspec.filesystem("memory").pipe_file("gs://bucket/run/.lock/000002", b"{}")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            first.check()
        except UserError as error:
            assert "another run has taken over gs://bucket/run, because this one did not reach the bucket" in str(error)
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the lost lock was not noticed")
    first.close()
    assert fsspec.filesystem("memory").cat_file("gs://bucket/run/.lock/000002") == b"{}"


def test_of_two_newcomers_that_saw_the_same_silent_lock_one_gets_it(bucket, monkeypatch):
    another(released=True)
    monkeypatch.setattr(BucketLock, "_last_owner_gone", lambda self: 3)  # both have looked before either has written
    first = lock(bucket)
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        lock(bucket)
    first.close()


def test_a_newcomer_that_finds_a_higher_number_after_its_own_is_refused(bucket, monkeypatch):
    another(released=True)  # number 3, as others left it
    monkeypatch.setattr(BucketLock, "_last_owner_gone", lambda self: 1)  # it looked before 2 and 3 came and went
    with pytest.raises(UserError, match="is locked by a run"):
        lock(bucket)
    assert [name[-1] for name in fsspec.filesystem("memory").ls("gs://bucket/run/.lock", detail=False)] == ["3"]


def test_a_folder_mounted_through_fuse_is_told(tmp_path, monkeypatch, caplog):
    real = module.pathlib.Path.read_text
    lines = f"disk / ext4 rw 0 0\nbucket {tmp_path.parent} fuse.gcsfuse rw 0 0\n"
    monkeypatch.setattr(module.pathlib.Path, "read_text", lambda self: lines if str(self) == "/proc/mounts" else real(self))
    lock(to_path(tmp_path)).close()
    assert f"{tmp_path} is mounted through FUSE: a second run on another machine would go unnoticed" in caplog.text


def test_a_bucket_that_refuses_while_the_lock_is_held_is_told_as_unreachable(bucket, monkeypatch):
    def forbidden(*_, **__):
        raise OSError("Forbidden")

    held = lock(bucket)
    with monkeypatch.context() as broken:
        broken.setattr(type(fsspec.filesystem("memory")), "ls", forbidden)
        with pytest.raises(Unreachable, match=r"^gs://bucket/run cannot be reached \(Forbidden\); check its name"):
            held.check()
    held.check()
    held.close()
