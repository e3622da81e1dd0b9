"""Numba's machine code is kept where that is possible. Nowhere to keep it, a full disk or a damaged file cost time, never a run."""

import numba
import pytest

from bnext_jax.host import machine_code


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Numba's cache is an empty folder, which the fixture returns."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    machine_code._has_place.cache_clear()
    machine_code._tell.cache_clear()
    yield tmp_path / "numba"
    machine_code._has_place.cache_clear()


def twice(number):
    return 2 * number


def made():
    return machine_code.compiled()(twice)


def test_the_second_process_loads_what_the_first_has_compiled(place):
    assert made()(4) == 8
    again = made()
    assert again(4) == 8 and sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_damaged_file_is_compiled_again_and_replaced(place, ending):
    made()(4)
    for file in place.rglob(f"*{ending}"):
        file.write_bytes(file.read_bytes()[:10])
    again = made()
    assert again(4) == 8 and sum(again.stats.cache_hits.values()) == 0
    repaired = made()
    assert repaired(4) == 8 and sum(repaired.stats.cache_hits.values()) == 1


def test_a_disk_that_fails_is_told_once(place, caplog, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert made()(4) == 8 and made()(4) == 8
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("machine code cannot be kept (") and "No space left on device" in told


def test_without_a_writable_package_the_users_cache_folder_keeps_it(place, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(machine_code.os, "access", lambda *arguments: False)
    monkeypatch.setenv("BNEXT_CACHE", str(tmp_path / "mine"))
    assert made()(4) == 8
    assert list((tmp_path / "mine/numba").rglob("*.nbc"))


def test_without_any_place_the_functions_work(place, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(machine_code.os, "access", lambda *arguments: False)
    monkeypatch.setattr(machine_code.cache, "writable", lambda name: None)
    assert made()(4) == 8
