"""Paths: every name that a disk allows works as it is; a name that cannot work is refused before anything is written."""

import os

import pytest

from bnext_jax.errors import UserError
from bnext_jax.io.files import write_whole
from bnext_jax.io.paths import Path, to_path

ODD = ("run[lr=0.1]", "a*b", "what?", "{a,b}", "two words", "$HOME", "größe", "_hidden", "100%", "#1", "a\nb", "-flag")


@pytest.mark.parametrize("name", ODD)
def test_a_glob_below_an_odd_folder_finds_its_files_and_no_others(tmp_path, name):
    folder = to_path(tmp_path / name)
    (folder / "one").mkdir(parents=True)
    write_whole(folder / "one" / "a.json", "1", "file")
    for other in ("runl", "aXb", "whatX", "a", "b"):  # what the names would match as patterns
        (tmp_path / other).mkdir(exist_ok=True)
        (tmp_path / other / "a.json").write_text("2")
    assert [found.name for found in folder.glob("*/a.json")] == ["a.json"]
    assert [str(found) for found in folder.glob("*")] == [str(folder / "one")]


def test_children_parents_and_absolute_paths_keep_the_type(tmp_path):
    folder = to_path(tmp_path / "[1]")
    assert {type(folder / "a"), type(folder.parent), type(folder.absolute()), type(folder.with_name("b"))} == {Path}


def test_a_tilde_is_the_home_folder_but_only_at_the_beginning(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(to_path("~/runs")) == f"{tmp_path}/runs"
    assert str(to_path("runs/~")) == "runs/~"


def test_only_paths_with_a_scheme_are_in_a_bucket():
    assert to_path("gs://bucket/run").bucket and not to_path("gs/bucket").bucket and not to_path("/tmp/gs").bucket
    assert str(to_path("gs://bucket/run").absolute() / "x") == "gs://bucket/run/x"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "--workdir is empty; name a file or a folder"),
        ("a\0b", "contains a zero byte"),
        (os.fsdecode(b"caf\xe9"), "has bytes that are not UTF-8"),
        ("/gs/bucket/run", "lies in a folder that is taken for a bucket"),
        ("s3://bucket/run", "is no place that can be used; name a folder on a disk, or a bucket as gs://NAME/FOLDER"),
        ("gs://", "is no place that can be used"),
        ("gs://bucket/run[1]", "contains one of the characters"),
        ("gs://bucket/a*", "contains one of the characters"),
    ],
)
def test_a_path_that_cannot_work_is_refused_by_its_name(name, told):
    with pytest.raises(UserError) as caught:
        to_path(name, "--workdir")
    assert str(caught.value).startswith("--workdir ") and told in str(caught.value)


def test_a_user_without_a_home_folder_gets_no_folder_named_tilde(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it returns for a user whom the system does not know
    with pytest.raises(UserError, match="--workdir '~/run' begins with ~, but this user has no home folder; write the whole path"):
        to_path("~/run", "--workdir")


def test_a_file_whose_owner_has_no_name_on_this_machine_has_a_size(monkeypatch, tmp_path):
    def nobody(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    (tmp_path / "a").write_bytes(bytes(7))
    monkeypatch.setattr("pwd.getpwuid", nobody)
    about = to_path(tmp_path / "a").stat()
    assert (about.length, about.is_directory, about.mtime) == (7, False, int(os.stat(tmp_path / "a").st_mtime))
    assert to_path(tmp_path).stat().is_directory
