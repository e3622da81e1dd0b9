"""PyTorch files: reading each form, refusing code in untrusted files, and leaving nothing behind when a write fails."""

import pickle
import resource
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from bnext_jax.errors import UserError
from bnext_jax.io.torch import torch_files
from tests.helpers.torch_tools import save_bare, save_training

# the names of a BNext, as far as its network is recognized by them
TENSORS = {
    "feature.0.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "feature.0.bn1.num_batches_tracked": np.array(1000),
}
WEIGHT = "feature.0.conv1.weight"


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
        ("a.ckpt", lambda path: save_training(path, TENSORS), 10, 0.9**10),
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
    for suffix, expected in ((".pth.tar", described), (".ckpt", described), (".safetensors", described), (".pth", None)):
        torch_files.write(tmp_path / f"a{suffix}", TENSORS, epoch=3, temperature=0.5, described=described)
        file = torch_files.read(tmp_path / f"a{suffix}")
        assert file.described == expected and file.epoch == (expected and 3)
    for i, text in enumerate(("", "[]", "{}", '{"name": 1, "num_classes": 10, "arguments": {}}', "[" * 100_000)):
        save_file(TENSORS, tmp_path / f"{i}.safetensors", {"bnext_jax": text})
        assert torch_files.read(tmp_path / f"{i}.safetensors").described is None


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


OLDER = {"_use_new_zipfile_serialization": False}


class Labelled(torch.Tensor):
    """A class of tensors that only its owner's program knows."""


def save_older(tensors, path):
    torch.save(tensors, path, **OLDER)


def quantized(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch will drop these tensors; the files stay
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def save_program(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch will drop TorchScript; the files stay
        torch.jit.save(torch.jit.trace(torch.nn.PReLU(), torch.ones(1)), path)


def save_numpy(path):
    with path.open("wb") as file:
        np.savez(file, a=1)


def packed_again(path):
    """Writes the entries of an archive anew, compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def changed(path):
    """Changes one bit of the numbers 0 to 5 in a file."""
    content = path.read_bytes()
    place = content.index(np.arange(6, dtype=np.float32).tobytes())
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])


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
    "a tensor": ("a.pth", lambda path: torch.save(torch.ones(1), path), "holds a Tensor, not a state dict"),
    "a list inside": ("a.pth", lambda path: torch.save({"shadow": [torch.ones(1)]}, path), "holds a dict, not a state dict"),
    "no tensors": ("a.pth", lambda path: torch.save({"epoch": 1}, path), "holds no tensors; save a network's tensors with torch.save"),
    "a module": ("a.pth", lambda path: torch.save(torch.nn.PReLU(), path), "holds an object of torch.nn.modules.activation.PReLU, which"),
    "an older module": ("a.pth", lambda path: torch.save(torch.nn.PReLU(), path, **OLDER), "holds an object of torch.nn.modules.activ"),
    "a module inside": ("a.pth", lambda path: torch.save({"net": torch.nn.PReLU()}, path), "no tensors .it has objects: net of torch.nn"),
    "a program": ("a.pt", save_program, "is a TorchScript program; .*state_dict.., NEW_FILE"),
    "another zip": ("a.pth", save_numpy, "is a zip archive, but torch.save did not write it"),
    "packed again": ("a.pth", lambda path: packed_again(save_bare(path, TENSORS)), "is a compressed archive"),
    "another pickle": ("a.pth", lambda path: path.write_bytes(pickle.dumps({"a": 1})), "is a pickle that torch.save did not write"),
    "a number too": ("a.pth", lambda path: torch.save({"model": {WEIGHT: torch.ones(1), "b": 1}}, path), "no tensors: b .int."),
    "an object too": ("a.pth", lambda path: torch.save({WEIGHT: torch.ones(1), "a.b": {1}}, path), "no tensors: a.b .__builtin__.set."),
    "a numpy array": ("a.pth", lambda path: torch.save({WEIGHT: torch.ones(1), "a.b": np.ones(1)}, path), "no tensors: a.b .numpy"),
    "expanded": ("a.pth", lambda path: torch.save({WEIGHT: torch.ones(1).expand(10**7)}, path), "repeat few numbers many times"),
    "changed": ("a.pth", lambda path: changed(save_bare(path, TENSORS)), "the checksum of a/data/0 is wrong"),
    **{
        kind: (name, lambda path, save=save, make=make: save({WEIGHT: make(torch.ones(2, 2)), "fc.bias": torch.ones(2)}, path), told)
        for kind, name, save, make, told in (
            ("float8", "a.pth", torch.save, lambda t: t.to(torch.float8_e4m3fn), f"has tensors in float8_e4m3fn, .* read: {WEIGHT};"),
            ("older float8", "a.pt", save_older, lambda t: t.to(torch.float8_e5m2), "has tensors in float8_e5m2"),
            ("safe float8", "a.safetensors", save_torch_file, lambda t: t.to(torch.float8_e4m3fn), f"in float8_e4m3fn, .*: {WEIGHT};"),
            ("safe complex", "a.safetensors", save_torch_file, lambda t: t.to(torch.complex64), f"in complex64, .*: {WEIGHT};"),
            ("complex", "a.pth", torch.save, lambda t: t.to(torch.complex128), "has tensors in complex128"),
            ("quantized", "a.pth", torch.save, quantized, "has tensors in qint8 .quantized."),
            ("sparse", "a.pth", torch.save, lambda t: t.to_sparse(), "has tensors in sparse_coo"),
            ("meta", "a.pth", torch.save, lambda t: t.to("meta"), "has tensors in meta, without numbers"),
            ("a class", "a.pth", torch.save, lambda t: t.as_subclass(Labelled), "tensors in tests.io.test_torch_files.Labelled"),
        )
    },
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
