"""A packed file is a safetensors file that other readers open. A damaged file gives one sentence that says what is wrong."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from bnext_jax.errors import UserError
from bnext_jax.packed import file

MODEL = {"name": "bnext", "num_classes": 2, "arguments": {"widths": [8, 8]}}
SCALED = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "eval_transform": "", "image_shape": [32, 32, 3]}
TOLD = {
    "format": 1, "model": MODEL, "preprocessing": SCALED, "class_names": ["cat", "dog"], "epoch": 3, "step": 7,
    "precision": "float32", "zero_weights": 0,
}  # fmt: skip
TENSORS = {
    "codes": np.arange(5, dtype=np.uint8),
    "b": np.array([[1.5, -2.0, 0.25]], np.float32),
    "a": np.array(7.0, np.float32),
    "program": np.array([1, 2**32 - 1], np.uint32),
}


def test_other_readers_open_a_packed_file(tmp_path):
    path = tmp_path / "net.bnext"
    file.write(path, TENSORS, TOLD)
    with safe_open(path, "numpy") as opened:
        assert json.loads(opened.metadata()["bnext_jax"]) == TOLD
        assert set(opened.keys()) == TENSORS.keys()
        for name, array in TENSORS.items():
            assert opened.get_tensor(name).dtype == array.dtype and np.array_equal(opened.get_tensor(name), array)


def test_the_program_comes_first_and_the_bytes_come_last(tmp_path):
    path = tmp_path / "net.bnext"
    file.write(path, TENSORS, TOLD)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 64 == 0 and len(content) == 8 + length + 8 + 12 + 4 + 5
    places = {name: header[name]["data_offsets"] for name in TENSORS}
    assert places == {"program": [0, 8], "b": [8, 20], "a": [20, 24], "codes": [24, 29]}
    assert content[8 + length :][:8] == bytes([1, 0, 0, 0, 255, 255, 255, 255]) and content[-5:] == bytes(range(5))


def test_read_returns_what_was_written_without_a_copy(tmp_path):
    path = tmp_path / "net.bnext"
    file.write(path, TENSORS, TOLD)
    description, tensors = file.read(path)
    assert description == file.read_description(path) == {**TOLD, "source": "net.bnext"}
    assert tensors.keys() == TENSORS.keys()
    for name, array in tensors.items():
        assert array.dtype == TENSORS[name].dtype and np.array_equal(array, TENSORS[name])
        assert not array.flags.owndata and not array.flags.writeable
    assert file.is_packed(path) and not file.is_packed("a.safetensors")


def test_an_existing_file_stays_as_it_is(tmp_path):
    path = tmp_path / "net.bnext"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists; remove it or name another --output"):
        file.write(path, TENSORS, TOLD)
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.bnext cannot be read: No such file"):
        file.read(tmp_path / "none.bnext")


def content(header=None, data=b"\0" * 8, told=TOLD, length=None):
    """The bytes of a file with one tensor of two floats, or with another header, data, description or length of the header."""
    entries = {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} if header is None else header
    if isinstance(entries, dict):
        entries = json.dumps({"__metadata__": {"bnext_jax": told if isinstance(told, str) else json.dumps(told)}, **entries}).encode()
    return (len(entries) if length is None else length).to_bytes(8, "little") + entries + data


def entry(kind="F32", shape=(2,), place=(0, 8)):
    """A header of one tensor."""
    return {"t": {"dtype": kind, "shape": shape, "data_offsets": place}}


def two(first, second):
    """A header of two tensors of two floats each, at these places."""
    return {name: {"dtype": "F32", "shape": [2], "data_offsets": place} for name, place in (("t", first), ("u", second))}


DEEP = b"[" * 100_000
DAMAGED = {
    "empty": (b"", "it is empty"),
    "short": (b"abc", "it has only 3 bytes"),
    "header cut": (content(length=5000)[:200], "its header alone would have 5000"),
    "header absurd": (b"\xff" * 64, "its header would have 18446744073709551615 bytes"),
    "no json": (content(b"{not json"), "its header is no JSON object"),
    "no object": (content(b"[1, 2]"), "its header is no JSON object"),
    "not utf-8": (content(b'{"\xff": 1}'), "its header is no JSON object"),
    "deep header": (content(DEEP), "its header is no JSON object"),
    "deep description": (content(told=DEEP.decode()), "its description is no JSON object"),
    "no description": (content(b"{}", b""), "is a safetensors file but not a packed network"),
    "metadata no object": (content(b'{"__metadata__": 3}', b""), "is a safetensors file but not a packed network"),
    "newer": (content(told={**TOLD, "format": 2}), r"newer bnext_jax \(format 2\); this one reads 1; update"),
    "format a text": (content(told={**TOLD, "format": "1"}), "its format is 1, not a number"),
    "format a boolean": (content(told={**TOLD, "format": True}), "its format is True"),
    "no model": (content(told={**TOLD, "model": None}), "does not name the model"),
    "no name": (content(told={**TOLD, "model": {**MODEL, "name": 3}}), "does not name the model"),
    "no classes": (content(told={**TOLD, "model": {**MODEL, "num_classes": 0}}), "does not name the model"),
    "arguments a list": (content(told={**TOLD, "model": {**MODEL, "arguments": []}}), "does not name the model"),
    "class names": (content(told={**TOLD, "class_names": ["cat"]}), "its class names are not 2 texts"),
    "no epoch": (content(told={**TOLD, "epoch": None}), "lacks epoch"),
    "std 0": (content(told={**TOLD, "preprocessing": {**SCALED, "std": [0, 1, 1]}}), "its preprocessing is not"),
    "turned sideways": (content(told={**TOLD, "preprocessing": {**SCALED, "orientation": "left"}}), "its preprocessing is not"),
    "mean nan": (content(told={**TOLD, "preprocessing": {**SCALED, "mean": [float("nan"), 1, 1]}}), "its preprocessing is not"),
    "type": (content(entry("F64")), "t has the type F64"),
    "type a list": (content(entry(["F32"])), "t has the type"),
    "entry": (content({"t": 3}), "the entry of t is no JSON object"),
    "negative": (content(entry(shape=[-2])), r"t has the shape \[-2\]"),
    "boolean": (content(entry(shape=[True, 2])), r"t has the shape \[True, 2\]"),
    "huge": (content(entry(shape=[2**70])), "t has the shape"),
    "huge product": (content(entry(shape=[2**40, 2**40])), "t has 8 bytes, and its shape"),
    "no elements": (content(entry(shape=[0, 2**62, 2**62], place=(0, 0))), r"t has the shape \[0, "),
    "many axes": (content(entry(shape=[1] * 1000)), "t has the shape"),
    "no place": (content(entry(place=[0])), r"t has the place \[0\]"),
    "backwards": (content(entry(place=[8, 0])), "t begins at byte 8 of the data"),
    "wrong length": (content(entry(shape=[3])), r"t has 8 bytes, and its shape \(3,\) needs 12"),
    "past the end": (content(data=b"\0" * 4), "its tensors have 8 bytes, and 4 bytes follow its header"),
    "longer": (content(data=b"\0" * 9), "its tensors have 8 bytes, and 9 bytes follow its header"),
    "overlap": (content(two([0, 8], [4, 12]), b"\0" * 12), "u begins at byte 4 of the data, and the tensor before it ends at byte 8"),
    "gap": (content(two([0, 8], [12, 20]), b"\0" * 20), "u begins at byte 12 of the data, and the tensor before it ends at byte 8"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_gives_one_sentence_that_names_it(tmp_path, case):
    damaged, message = DAMAGED[case]
    path = tmp_path / "net.bnext"
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=message) as raised:
        file.read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_changed_or_cut_file_never_raises_anything_but_a_user_error(tmp_path):
    path, rng = tmp_path / "net.bnext", np.random.default_rng(0)
    file.write(path, TENSORS, TOLD)
    whole, refused = path.read_bytes(), 0
    for _ in range(1000):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            changed[place] = rng.choice(list(b'0129-[]{}",:\xfftn'))
        path.write_bytes(changed[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else changed)
        try:
            file.read(path)
        except UserError:
            refused += 1
    assert refused > 500
