"""Compiled programs are kept on disk: checked when read, bounded in size, and a folder that fails never fails a run."""

import concurrent.futures
import os
import pathlib

import pytest

from bnext_jax.io import compiled
from bnext_jax.io.compiled import ENDING, Store
from bnext_jax.io.digest import digest
from bnext_jax.io.paths import to_path
from tests.helpers.checkpoints import saved_state
from tests.helpers.commands import SMOKE
from tests.helpers.storage import Storage


def store(folder, limit=10_000):
    return Store(str(folder), limit)


def files(folder):
    return sorted(path for path in folder.iterdir() if path.name.endswith(ENDING))


def test_a_program_comes_back_in_another_process(tmp_path):
    one, other = store(tmp_path), store(tmp_path)
    assert one.get("jit_step-1") is None
    one.put("jit_step-1", b"machine code")
    assert other.get("jit_step-1") == b"machine code" and other.get("jit_step-2") is None


def test_a_program_comes_back_from_a_bucket(monkeypatch):
    with Storage() as storage:
        for name, value in storage.environment.items():
            monkeypatch.setenv(name, value)
        for key in "ab":
            store("gs://bucket/runs/a/compiled").put(key, key.encode() * 100)
        assert [store("gs://bucket/runs/a/compiled").get(key) for key in "abc"] == [b"a" * 100, b"b" * 100, None]
        store("gs://bucket/runs/a/compiled", 300).put("c", bytes(100))  # room for two programs with their checksums
        left = [store("gs://bucket/runs/a/compiled").get(key) for key in "abc"]
        assert left[2] == bytes(100) and left[:2].count(None) == 1


def test_processes_that_write_the_same_programs_at_once_keep_all_of_them(tmp_path, caplog):
    stores, keys = [store(tmp_path, 10**6) for _ in range(4)], [str(number) for number in range(30)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: [one.put(key, key.encode() * 500) for key in keys], stores))
    assert [store(tmp_path).get(key) for key in keys] == [key.encode() * 500 for key in keys]
    assert not caplog.records and len(list(tmp_path.iterdir())) == 30


@pytest.mark.parametrize("damage", [b"", b"x", lambda kept: kept[:-1], lambda kept: kept[:40] + b"?" + kept[41:]])
def test_a_damaged_program_is_compiled_again_and_replaced(tmp_path, caplog, damage):
    kept = store(tmp_path)
    kept.put("jit_step-1", bytes(100))
    (file,) = files(tmp_path)
    file.write_bytes(damage if isinstance(damage, bytes) else damage(file.read_bytes()))
    assert kept.get("jit_step-1") is None
    assert [record.getMessage() for record in caplog.records] == [f"a compiled program in {tmp_path} is damaged; it is compiled again"]
    kept.put("jit_step-1", bytes(100))
    assert kept.get("jit_step-1") == bytes(100)


@pytest.mark.parametrize("seen", [True, False])
def test_the_program_that_was_not_used_for_the_longest_time_makes_room(tmp_path, seen):
    (tmp_path / "mine").write_bytes(bytes(5000))
    for number, name in enumerate("abc"):
        store(tmp_path).put(name, bytes(900))
        os.utime(files(tmp_path)[number], (number, number))  # seconds since 1970
    if seen:
        assert store(tmp_path).get("a") == bytes(900)
    store(tmp_path, 3 * 932).put("d", bytes(900))  # 32 bytes are the checksum
    assert [path.name[0] for path in files(tmp_path)] == (["a", "c", "d"] if seen else ["b", "c", "d"])
    assert (tmp_path / "mine").exists()


def test_a_program_larger_than_the_folder_is_not_kept_and_removes_no_other(tmp_path):
    store(tmp_path).put("a", bytes(100))
    store(tmp_path, 200).put("b", bytes(300))
    assert [path.name[0] for path in files(tmp_path)] == ["a"]


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("here the folder should be")
    kept = store(tmp_path / "file")
    for key in "ab":
        assert kept.get(key) is None
        kept.put(key, b"machine code")
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"compiled programs cannot be kept in {tmp_path}/file (") and told.endswith("; the next start compiles again")


def test_a_folder_that_cannot_be_read_is_told_once(tmp_path, caplog):
    store(tmp_path).put("a", b"machine code")
    (file,) = files(tmp_path)
    file.unlink()
    file.mkdir()
    kept = store(tmp_path)
    assert kept.get("a") is None and kept.get("a") is None
    assert len(caplog.records) == 1 and "they are compiled again" in caplog.text


@pytest.fixture
def settings(monkeypatch):
    """The settings of JAX that keep() makes, collected instead of made: {name: value}."""
    made = {"jax_compilation_cache_dir": None, "jax_compilation_cache_max_size": -1, "jax_enable_compilation_cache": True}

    class Config:
        update = staticmethod(made.__setitem__)

        def __getattr__(self, name):
            return made[name]

    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(compiled.jax, "config", Config())
    monkeypatch.setattr(compiled, "reset_cache", lambda: None)
    monkeypatch.setattr(compiled, "_ours", None)
    return made


def test_a_run_of_several_machines_keeps_programs_in_its_folder_others_the_user(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("BNEXT_CACHE", str(tmp_path))
    compiled.keep()
    assert settings["jax_compilation_cache_dir"] == f"{tmp_path}/compiled"
    assert settings["jax_persistent_cache_min_compile_time_secs"] == 0
    compiled.keep("gs://bucket/runs/a")
    assert settings["jax_compilation_cache_dir"] == "gs://bucket/runs/a/compiled"
    assert settings["jax_persistent_cache_min_compile_time_secs"] == 1
    compiled.keep()  # another command in the same process
    assert settings["jax_compilation_cache_dir"] == f"{tmp_path}/compiled"


@pytest.mark.parametrize(
    ("folder", "processes", "expected"),
    [("runs/a", 1, None), ("gs://bucket/a", 1, "gs://bucket/a/compiled"), ("runs/a", 2, "runs/a/compiled")],
)
def test_only_a_run_that_other_machines_reach_keeps_its_own_programs(settings, monkeypatch, folder, processes, expected):
    monkeypatch.setattr(compiled.jax, "process_count", lambda: processes)
    compiled.keep_for_run(to_path(folder))
    assert settings["jax_compilation_cache_dir"] == expected


def test_a_folder_that_the_user_names_wins(settings, monkeypatch):
    settings["jax_compilation_cache_dir"] = "/mine"
    compiled.keep("gs://bucket/runs/a")
    assert settings["jax_compilation_cache_dir"] == "/mine"


@pytest.mark.parametrize("how", ["switched off", "an empty name"])
def test_nothing_is_kept_if_the_user_says_so(settings, monkeypatch, how):
    settings["jax_enable_compilation_cache"] = how != "switched off"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    compiled.keep()
    assert settings["jax_compilation_cache_dir"] is None


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_run_is_the_same_with_new_programs_and_with_kept_ones(launcher, digits, tmp_path):
    """Trains once without a pause and with an empty cache, then again with the programs of the first run, in two processes."""

    def train(name, *words):
        output = tmp_path / f"{name}{len(words)}"
        line = ["train", SMOKE, f"--config.data.directory={digits}", f"--workdir={tmp_path / name}", *words]
        settings = {"jax_compilation_cache_dir": str(tmp_path / "cache")}
        assert launcher.end(launcher.start(line, output, settings=settings)) == 0, pathlib.Path(f"{output}.err").read_text()[-2000:]

    train("cold", "--config.stop_at_step=5")
    first = files(tmp_path / "cache")
    assert any(path.name.startswith("jit_step-") for path in first)  # compiled with .lower().compile()
    written = {path: path.read_bytes() for path in first}
    train("warm", "--config.stop_at_step=3", "--config.tensorboard=False")
    train("warm", "--config.stop_at_step=5")
    assert {path: path.read_bytes() for path in first} == written
    assert not [path for path in files(tmp_path / "cache") if path not in first and path.name.startswith(("jit_step-", "jit_eval_step-"))]
    assert digest(saved_state(tmp_path / "warm")) == digest(saved_state(tmp_path / "cold"))
