"""The user's cache folder, also for a user without a home folder or without one that can be written to."""

import os
import pathlib

import pytest

from bnext_jax.host import cache


@pytest.fixture
def places(monkeypatch, tmp_path):
    """HOME is tmp_path/home; the folder for temporary files is tmp_path/temporary. No variable names another cache folder."""
    for name in ("BNEXT_CACHE", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    cache._tell.cache_clear()
    return tmp_path


def test_the_folder_lies_in_the_users_cache_folder(places, monkeypatch):
    assert cache.root() == places / "home/.cache/bnext_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "xdg"))
    assert cache.root() == places / "xdg/bnext_jax"
    monkeypatch.setenv("BNEXT_CACHE", str(places / "mine"))
    assert cache.writable("compiled") == places / "mine/compiled"
    assert os.listdir(places / "mine/compiled") == [] and (places / "mine/compiled").stat().st_mode & 0o777 == 0o700


def test_a_user_without_a_home_folder_gets_one_among_the_temporary_files(places, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it returns for a user whom the system does not know
    monkeypatch.chdir(places)
    assert cache.home() is None
    assert cache.writable("numba") == places / f"temporary/bnext_jax-{os.getuid()}/numba"
    cache.without_home()
    assert os.environ.pop("MPLCONFIGDIR") == str(places / f"temporary/bnext_jax-{os.getuid()}/matplotlib")
    assert not (places / "~").exists()


@pytest.mark.parametrize("obstacle", ["a file", "others can write"])
def test_a_folder_that_cannot_be_used_is_replaced_by_one_among_the_temporary_files(places, obstacle):
    (places / "home").mkdir()
    if obstacle == "a file":
        (places / "home/.cache").write_text("")
    else:
        cache.root().mkdir(parents=True)
        cache.root().chmod(0o777)
    assert cache.writable("compiled") == places / f"temporary/bnext_jax-{os.getuid()}/compiled"


def test_a_user_who_can_write_nowhere_is_told_once(places, caplog):
    (places / "home").write_text("")
    pathlib.Path(places / f"temporary/bnext_jax-{os.getuid()}").write_text("")
    assert cache.writable("compiled") is None and cache.writable("numba") is None
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("nothing can be kept for the next start (") and told.endswith(
        "; set BNEXT_CACHE to a folder that only you can write to"
    )


def test_matplotlib_keeps_the_users_own_settings(places):
    (places / "home").mkdir()
    cache.without_home()
    assert "MPLCONFIGDIR" not in os.environ
