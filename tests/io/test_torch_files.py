"""PyTorch files: reading each form, refusing code in untrusted files, and leaving nothing behind when a write fails."""

import os
import pickle
import resource
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from bnext_jax.errors import UserError
from bnext_jax.io.torch import torch_files
from tests.helpers.torch_tools import save_bare, save_training

TENSORS = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn.num_batches_tracked": np.array(1000)}


def legacy(path):
    return save_bare(path, TENSORS, _use_new_zipfile_serialization=False)


def halves():
    return {name: torch.from_numpy(value).bfloat16() if value.ndim else torch.tensor(1000) for name, value in TENSORS.items()}


@pytest.mark.parametrize(
    ("name", "make", "epoch", "temperature"),
    [
        ("a.pth.tar", lambda path: save_training(path, TENSORS), 10, 0.9**10),
        ("a.pth", lambda path: save_bare(path, TENSORS), None, None),
        ("a.pt", legacy, None, None),
        ("pytorch_model.bin", lambda path: torch.save(halves(), path), None, None),
        ("a.safetensors", lambda path: save_file(TENSORS, path, {"format": "pt"}), None, None),
        ("h.safetensors", lambda path: save_torch_file(halves(), path), None, None),
        ("n.safetensors", lambda path: save_file(TENSORS, path, {"epoch": "best"}), None, None),
        ("b.safetensors", lambda path: save_file(TENSORS, path, {"epoch": "3", "temperature": "0.729"}), 3, 0.729),
    ],
)
def test_every_form_gives_its_tensors_epoch_and_temperature(tmp_path, name, make, epoch, temperature):
    make(tmp_path / name)
    file = torch_files.read(tmp_path / name)
    assert (file.epoch, file.temperature) == (epoch, temperature)
    assert file.tensors.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert file.tensors[key].dtype == value.dtype
        np.testing.assert_array_equal(file.tensors[key], value)


class Trap:
    """An object that makes a folder when a plain pickle.load reads it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "in the history"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, form):
    path, mark = tmp_path / "trap.pth.tar", tmp_path / "mark"
    content = {"state_dict": {"fc.weight": torch.ones(2)}, "losses": [Trap(mark)]} if form == "in the history" else Trap(mark)
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(UserError, match="was not loaded: it would run code or make objects"):
        torch_files.read(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()  # shows that the trap works


class Made:
    """An object that is pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_functions_named_in_histories_do_not_run(tmp_path):
    """The functions of numpy would use bytes of the file as pointers, and allocate any amount of memory."""
    wild = [Made(np.ndarray, (1,), np.dtype("O"), b"A" * 8), Made(np.ndarray, (10**15,)), np.array(["a", None], object), np.uint8(3)]
    torch.save({"state_dict": {"fc.weight": torch.ones(2)}, "history": wild, "epoch": float("inf"), "temp": 10**400}, tmp_path / "a.pth")
    file = torch_files.read(tmp_path / "a.pth")
    assert list(file.tensors) == ["fc.weight"] and (file.epoch, file.temperature) == (None, None)


def test_a_file_cut_at_any_byte_or_with_a_flipped_bit_is_read_or_refused(tmp_path):
    path, told = legacy(tmp_path / "a.pth"), 0
    whole = path.read_bytes()
    turned = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(0, len(whole), 3)]
    for damaged in (*(whole[:i] for i in range(len(whole))), *turned):
        path.write_bytes(damaged)
        try:
            torch_files.read(path)
        except UserError:
            told += 1
    assert told >= len(whole)  # every truncated file, and some files with a flipped bit


def test_the_network_description_is_read_back_and_a_wrong_one_is_ignored(tmp_path):
    described = {"name": "bnext", "num_classes": 10, "arguments": {"widths": [8, 8], "stem_stride": 2}}
    for suffix, expected in ((".pth.tar", described), (".safetensors", described), (".pth", None)):
        torch_files.write(tmp_path / f"a{suffix}", TENSORS, epoch=3, temperature=0.5, described=described)
        file = torch_files.read(tmp_path / f"a{suffix}")
        assert file.described == expected and file.epoch == (expected and 3)
    for i, text in enumerate(("", "[]", "{}", '{"name": 1, "num_classes": 10, "arguments": {}}', "[" * 100_000)):
        save_file(TENSORS, tmp_path / f"{i}.safetensors", {"bnext_jax": text})
        assert torch_files.read(tmp_path / f"{i}.safetensors").described is None


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD = {
    "missing": ("a.pth", lambda path: None, "cannot be read: No such file"),
    "empty": ("a.pth", lambda path: path.touch(), "is empty"),
    "truncated": ("a.pth.tar", lambda path: cut(save_training(path, TENSORS)), "damaged or truncated"),
    "truncated legacy": ("a.pth", lambda path: cut(legacy(path)), "damaged or truncated"),
    "truncated safetensors": ("a.safetensors", lambda path: (save_file(TENSORS, path), cut(path)), "damaged or truncated"),
    "a web page": ("a.pth", lambda path: path.write_text("<html>404</html>"), "damaged or something else"),
    "safetensors by name": ("a.safetensors", lambda path: save_bare(path, TENSORS), "is a PyTorch file, but its suffix says otherwise"),
    "PyTorch by name": ("a.pth", lambda path: save_file(TENSORS, path), "is a safetensors file, but its suffix says otherwise"),
    "another suffix": ("a.npz", lambda path: save_bare(path, TENSORS), "its suffix must be one of .pth.tar"),
    "a list": ("a.pth", lambda path: torch.save([torch.ones(1)], path), "holds a list, not a state dict"),
    "no tensors": ("a.pth", lambda path: torch.save({"epoch": 1}, path), "holds no tensors"),
    "sparse": ("a.pth", lambda path: torch.save({"a": torch.ones(2, 2).to_sparse()}, path), "tensors without plain values"),
    "a module": ("a.pth", lambda path: torch.save(torch.nn.Linear(2, 2), path), "make objects .torch.nn.modules.linear.Linear"),
    "eight bits": ("a.safetensors", lambda path: save_torch_file({"a": torch.ones(4).to(torch.float8_e4m3fn)}, path), "cannot be read"),
    "a number too": ("a.pth", lambda path: torch.save({"state_dict": {"a": torch.ones(1), "b": 1}}, path), "no tensors: b"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_an_unusable_file_is_refused_with_a_message_of_one_line(tmp_path, case):
    name, make, message = BAD[case]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        torch_files.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors"])
def test_a_full_disk_leaves_no_file(tmp_path, suffix):
    large = {"fc.weight": np.ones(100_000, np.float32)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # writes beyond 50,000 bytes fail as on a full disk
    try:
        with pytest.raises(UserError, match="cannot be written"):
            torch_files.write(tmp_path / f"a{suffix}", large, epoch=0, temperature=1.0, described={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_existing_files_unknown_suffixes_and_impossible_paths(tmp_path):
    (tmp_path / "a.pth").write_text("mine")
    with pytest.raises(UserError, match="exists; remove it"):
        torch_files.write(tmp_path / "a.pth", TENSORS, epoch=0, temperature=None, described={})
    assert (tmp_path / "a.pth").read_text() == "mine"
    with pytest.raises(UserError, match="no suffix of a PyTorch file"):
        torch_files.write(tmp_path / "a.npz", TENSORS, epoch=0, temperature=None, described={})
    with pytest.raises(UserError, match="cannot be written"):
        torch_files.write(tmp_path / "a.pth" / "b.pth", TENSORS, epoch=0, temperature=None, described={})


def test_without_safetensors_a_safe_file_says_what_to_install(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "a.safetensors")
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    told = "needs safetensors, which is not installed; `pip install safetensors`"
    with pytest.raises(UserError, match=told):
        torch_files.read(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=told):
        torch_files.write(tmp_path / "b.safetensors", TENSORS, epoch=0, temperature=None, described={})
    assert not (tmp_path / "b.safetensors").exists()
