"""Writes are atomic: a file is complete or missing."""

import hashlib

import pytest

from bnext_jax.errors import UserError
from bnext_jax.io.files import sha256, write_whole, written_whole


def test_a_file_replaces_the_old_one_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_whole(path, "note") as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("torn"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    kind = UserError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(kind) as raised, written_whole(path, "note", "free space") as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    if kind is UserError:
        reason = getattr(error, "strerror", None) or str(error)
        assert str(raised.value) == f"the note {path} cannot be written: {reason}; free space"


def test_a_user_error_passes_unchanged_and_a_leftover_folder_is_replaced(tmp_path):
    (tmp_path / ".run.partial").mkdir()
    (tmp_path / ".run.partial" / "left").write_text("")
    with pytest.raises(UserError, match="mine"), written_whole(tmp_path / "run", "run"):
        raise UserError("mine")
    with written_whole(tmp_path / "run", "run") as partial:
        partial.mkdir()
        (partial / "a").write_text("1")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["a"]


def test_write_whole_writes_bytes_and_sha256_reads_them(tmp_path):
    content = bytes(range(256)) * 20_000  # 5.12 MB, more than one CHUNK
    write_whole(tmp_path / "a", content, "file")
    assert (tmp_path / "a").read_bytes() == content and sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        sha256(tmp_path / "b")
