"""The engine is built once, anew for other sources or another compiler; where it cannot be built, the form in XLA runs and says so."""

import functools
import logging
import os
import shutil

import numpy as np
import pytest

from bnext_jax.errors import UserError
from bnext_jax.packed import build, file
from bnext_jax.packed.build import NoEngine
from bnext_jax.packed.network import PackedNetwork, load
from bnext_jax.packed.pack import pack
from tests.helpers.exact_networks import exact_network, logits


@pytest.fixture
def afresh(monkeypatch, tmp_path):
    """No engine is loaded or built yet; the cache is an empty folder, which the fixture returns."""
    monkeypatch.setenv("BNEXT_CACHE", str(tmp_path / "cache"))
    for name in ("library", "reason"):  # the functions that keep what they found; afterwards the process has its own engine again
        monkeypatch.setattr(build, name, functools.cache(getattr(build, name).__wrapped__))
    return tmp_path / "cache"


def compiler(folder, script):
    """A program that stands in for a compiler."""
    path = folder / "mycc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_it_is_built_once_and_nothing_else_stays(afresh):
    first = build.library_path()
    written = first.stat().st_mtime_ns
    assert build.library_path() == first and first.stat().st_mtime_ns == written
    assert [path.name for path in afresh.iterdir()] == [first.name]


def test_other_sources_make_another_engine(afresh, monkeypatch, tmp_path):
    before = build.key(build.compiler())
    shutil.copytree(build.SOURCES, tmp_path / "runtime")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "runtime")
    assert build.key(build.compiler()) == before
    with open(tmp_path / "runtime" / "pool.c", "a") as source:
        source.write("\n/* changed */\n")
    assert build.key(build.compiler()) != before


def test_another_compiler_makes_another_engine(afresh, tmp_path):
    keys = {build.key([str(compiler(tmp_path, f"echo version {number}"))]) for number in (1, 2)}
    assert len(keys) == 2


def test_a_folder_that_cannot_be_written_is_replaced_by_one_for_temporary_files(afresh, monkeypatch, tmp_path):
    afresh.write_text("a file stands where the folder should be")
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert build.library_path().parent == tmp_path / "temporary" / f"bnext_jax-{os.getuid()}"


@pytest.mark.parametrize("built", [True, False])
def test_a_folder_that_other_users_can_write_is_not_used(afresh, monkeypatch, tmp_path, built):
    if built:
        build.library_path()
    afresh.mkdir(exist_ok=True)
    os.chmod(afresh, 0o777)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path / "temporary"))
    assert build.library_path().is_relative_to(tmp_path / "temporary")
    os.chmod(build.library_path().parent, 0o777)
    with pytest.raises(NoEngine, match="other users can write there"):
        build.library_path()


def test_a_user_whose_files_are_writable_for_the_group_keeps_the_cache(afresh):
    before = os.umask(0o002)
    try:
        assert {build.library_path().parent for _ in range(3)} == {afresh}
    finally:
        os.umask(before)


def test_the_cache_may_be_a_relative_folder(afresh, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BNEXT_CACHE", ".")
    os.chmod(tmp_path, 0o700)
    assert build.library_path().is_absolute() and build.library_path().parent == tmp_path


FAILURES = {
    "a CC that is no command": ("'", "which is no command"),
    "no compiler": (None, "there is no C compiler"),
    "a compiler that fails": ("[ $1 = --version ] || { echo 'disk full' >&2; exit 1; }", "the C compiler failed: disk full"),
    "a compiler that writes nothing": ("exit 0", "can be written nowhere"),
    "a compiler that writes nonsense": (
        'for last; do :; done; while [ $# -gt 1 ]; do [ $1 = -o ] && echo x > "$2"; shift; done',
        "the engine cannot be loaded",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_without_an_engine_the_form_in_xla_runs_and_says_so_once(afresh, monkeypatch, tmp_path, caplog, failure):
    script, sentence = FAILURES[failure]
    if script is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CC", "'" if script == "'" else str(compiler(tmp_path, script)))
    model, metadata = exact_network(widths=(8, 8))
    file.write(tmp_path / "net.bnext", *pack(model, metadata))
    with caplog.at_level(logging.WARNING):
        loaded = [load(tmp_path / "net.bnext")[0] for _ in range(2)]
    said = [record.getMessage() for record in caplog.records if "the slower form in XLA runs instead" in record.getMessage()]
    assert len(said) == 1 and sentence in said[0]
    assert not isinstance(loaded[0], PackedNetwork)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32)
    expected = logits(model, x)
    assert np.abs(logits(loaded[1], x) - expected).max() <= 1e-4 * expected.std()
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / "net.bnext", "engine")


def test_it_can_be_switched_off(afresh, monkeypatch):
    monkeypatch.setenv("BNEXT_ENGINE", "off")
    with pytest.raises(NoEngine, match="BNEXT_ENGINE=off"):
        build.library()
