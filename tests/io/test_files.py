"""Files are whole or not there."""

import hashlib

import pytest

from bnext_jax.errors import UserError
from bnext_jax.io.files import sha256, write_whole, written_whole


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_whole(path, "note") as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("torn"), KeyboardInterrupt()])
def test_where_writing_fails_the_old_file_stays_and_nothing_else(tmp_path, error):
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


def test_a_users_own_sentence_passes_and_a_folder_of_an_earlier_failure_is_replaced(tmp_path):
    (tmp_path / ".run.partial").mkdir()
    (tmp_path / ".run.partial" / "left").write_text("")
    with pytest.raises(UserError, match="mine"), written_whole(tmp_path / "run", "run"):
        raise UserError("mine")
    with written_whole(tmp_path / "run", "run") as partial:
        partial.mkdir()
        (partial / "a").write_text("1")
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["a"]


def test_bytes_and_checksums(tmp_path):
    content = bytes(range(256)) * 20_000  # more than a chunk
    write_whole(tmp_path / "a", content, "file")
    assert (tmp_path / "a").read_bytes() == content and sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        sha256(tmp_path / "b")
