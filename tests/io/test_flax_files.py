"""Flax's trees: the network's collections under Flax's names, and one sentence for each file that lies, is damaged or is something else."""

import random
import tracemalloc

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization
from flax.core import freeze

from bnext_jax.errors import UserError
from bnext_jax.io import foreign
from tests.helpers.commands import refused

# A few arrays of AQT's PokeBNN, at a quarter of its width
SHAPES = {
    "params/init_conv/kernel": (4, 4, 3, 32),
    "params/init_bn/scale": (32,),
    "params/DPReLU_0/neg_slope": (32,),
    "params/conv-resblock0-1/kernel": (1, 1, 64, 16),
    "batch_stats/init_bn/mean": (32,),
    "batch_stats/init_bn/var": (32,),
    "get_bounds/init_conv/GetBounds_0/bounds": (1, 1, 1, 3),
}


def drawn():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def tree():
    nested = {}
    for name, value in drawn().items():
        *holders, last = name.split("/")
        place = nested
        for holder in holders:
            place = place.setdefault(holder, {})
        place[last] = value
    return nested


def written(path, content):
    path.write_bytes(serialization.to_bytes(content))
    return path


def check(path, expected=None):
    found, expected = foreign.read(path).tensors, expected or drawn()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_a_tree_gives_its_arrays_under_the_names_of_their_collections(tmp_path):
    check(written(tmp_path / "a.msgpack", tree()))
    check(written(tmp_path / "b.msgpack", freeze(tree())))


def test_a_training_state_gives_the_network_and_names_the_rest(tmp_path, caplog):
    variables = tree()
    state = {
        "step": 7500,
        "params": variables["params"],
        "mutable_vars": {"batch_stats": variables["batch_stats"], "get_bounds": variables["get_bounds"], "stats": {"max": np.ones(3)}},
        "opt_state": {"0": {"mu": variables, "nu": variables}},
        "ema_params": variables["params"],
        "dynamic_scale": None,
    }
    check(written(tmp_path / "a.msgpack", {"runs": [state["step"]], "best": state}))
    assert "left out what is not of the network: best/mutable_vars/stats, best/step, best/opt_state, best/ema_params, runs" in caplog.text


def test_halves_become_float32_and_single_whole_numbers_stay(tmp_path):
    content = {"params": {"a": jnp.asarray([1.5, -3], jnp.bfloat16), "b": np.asarray([0.1], np.float16), "c": np.ones((2, 0))}}
    content["batch_stats"] = {"count": np.asarray(3, np.int32), "scale": np.float32(0.5)}
    expected = {
        "params/a": np.array([1.5, -3], np.float32),
        "params/b": np.array([np.float16(0.1)], np.float32),
        "params/c": np.ones((2, 0)),
    }
    expected |= {"batch_stats/count": np.array(3, np.int32), "batch_stats/scale": np.array(0.5, np.float32)}
    check(written(tmp_path / "a.msgpack", content), expected)


def test_a_large_array_that_flax_writes_in_chunks_is_one_again(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 1000)
    path = written(tmp_path / "a.msgpack", tree())
    assert path.read_bytes().count(b"__msgpack_chunked_array__") == 2
    check(path)


def extension(shape, kind, data, code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, kind, data)))


def chunked(shape, *chunks):
    numbered = [{str(i): value for i, value in enumerate(row)} for row in (shape, chunks)]
    return {"__msgpack_chunked_array__": True, "shape": numbered[0], "chunks": numbered[1]}


def params(value):
    return msgpack.packb({"params": {"a": value}})


FOUR = extension((4,), "float32", bytes(16))
DAMAGED = "; it is damaged or truncated"
WRONG = {
    "shape too large": (params(extension((2**40, 2**40), "float32", bytes(16))), "params/a does not have as many numbers as its"),
    "shape too small": (params(extension((3,), "float32", bytes(16))), "as its shape says"),
    "negative shape": (params(extension((-4, -1), "float32", bytes(16))), "as its shape says"),
    "shape of text": (params(extension(("4",), "float32", bytes(16))), "as its shape says"),
    "half a number": (params(extension((4,), "float32", bytes(15))), DAMAGED),
    "no array": (params(msgpack.ExtType(1, b"\xc1")), DAMAGED),
    "objects": (params(extension((2,), "object", bytes(16))), "has arrays in object, which are not read: params/a; save"),
    "code": (params(extension((2,), "f4,(2,3)f8", bytes(16))), "has arrays in f4,(2,3)f8, which are not read"),
    "complex array": (params(extension((2,), "complex64", bytes(16))), "has arrays in complex64"),
    "float8": (params(extension((2,), "float8_e4m3fn", bytes(2))), "has arrays in float8_e4m3fn"),
    "booleans": (params(extension((2,), "bool", bytes(2))), "has arrays in bool"),
    "whole numbers": (params(extension((2,), "int32", bytes(8))), "has whole numbers in place of weights: params/a"),
    "complex": (params(msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))), "has entries that are no arrays: params/a (complex)"),
    "extension": (params(msgpack.ExtType(77, b"")), "has entries that are no arrays: params/a"),
    "number": (params(0.5), "has entries that are no arrays: params/a (float); save it without them"),
    "list": (params([FOUR]), "params/a (list)"),
    "text": (params("x"), "params/a (str)"),
    "nothing": (params(None), "params/a (NoneType)"),
    "chunks too few": (params(chunked((2, 4), FOUR)), "as its shape says"),
    "chunk is no array": (params(chunked((4,), 3)), "params/a (int)"),
    "no chunks": (params({"__msgpack_chunked_array__": True}), DAMAGED),
    "chunks without number": (params({"__msgpack_chunked_array__": True, "shape": {"1": 4}, "chunks": {"0": FOUR}}), DAMAGED),
    "same key": (b"\x81\xa6params\x82\xa1a" + msgpack.packb(FOUR) + b"\xa1a" + msgpack.packb(FOUR), "a dict has a key twice"),
    "same name": (msgpack.packb({"params": {"a/b": FOUR, "a": {"b": FOUR}}}), "has two arrays with the name params/a/b"),
    "key of bytes": (msgpack.packb({b"params": {"a": FOUR}}), "or one that is no text"),
    "key of a number": (msgpack.packb({"params": {7: FOUR}}), DAMAGED),
    "not UTF-8": (b"\x81\xa6params\x81\xa1\xff" + msgpack.packb(FOUR), DAMAGED),
    "deep": (b"\x81\xa6params" * 100 + msgpack.packb({"a": FOUR}), "more than 64 dicts inside each other"),
    "very deep": (b"\x81\xa6params" * 10**5, DAMAGED),
    "many lists": (b"\x81\xa6params" + b"\xdd\x00\x00\x10\x00" * 1000, DAMAGED),
    "more behind": (params(FOUR) + b"\xc0", DAMAGED),
    "several": (msgpack.packb({name: {"params": {"a": FOUR}} for name in ("ema", "raw")}), "several networks: ema/params, raw/params"),
    "name that steers a terminal": (msgpack.packb({"params": {"\x1b[2Ja": 3}}), "params/\\x1b[2Ja (int)"),
    "no params": (msgpack.packb({"step": 3, "model": {"a": FOUR}}), "holds no collection params (it has step, model)"),
    "bare list": (msgpack.packb([1]), "holds a list, not a tree of Flax"),
    "empty": (b"", "is empty; fetch it again"),
    "PyTorch": (b"\x80\x02}.", "is a PyTorch file, but its suffix says otherwise; rename it"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_lies_is_refused_in_one_sentence_and_little_memory(tmp_path, case):
    content, words = WRONG[case]
    (tmp_path / "a.msgpack").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as told:
            foreign.read(tmp_path / "a.msgpack")
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 30 * len(content)
    finally:
        tracemalloc.stop()
    assert str(told.value).startswith(f"{tmp_path / 'a.msgpack'} ") and words in str(told.value) and "\n" not in str(told.value)


def test_a_file_with_changed_bytes_or_cut_anywhere_is_read_or_refused(tmp_path):
    small = {"params": {"conv": {"kernel": np.ones((2, 3), np.float32)}}, "batch_stats": {"bn": {"mean": np.ones(3)}}, "step": 4}
    path = written(tmp_path / "a.msgpack", small)
    whole, told = path.read_bytes(), {"read": 0, "refused": 0}
    dice = random.Random(0)
    for number in range(1000):
        changed = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            changed[dice.randrange(len(whole))] = dice.randrange(256)
        path.write_bytes(changed if number % 4 else whole[: dice.randrange(len(whole))])
        try:
            arrays = foreign.read(path).tensors.values()
            assert sum(array.nbytes for array in arrays) <= 2 * len(whole)
            told["read"] += 1
        except UserError:
            told["refused"] += 1
    assert min(told.values()) > 100


def test_a_good_flax_file_of_an_unknown_network_and_weights_are_refused_by_name(tmp_path, run):
    path = written(tmp_path / "a.msgpack", {"params": {"layer": {"kernel": np.ones((2, 3), np.float32)}}})
    refused(run("count", f"--checkpoint={path}"), "no network that is known here (it starts with params/layer/kernel)")
    refused(run("convert", f"--source={path}", f"--output={tmp_path / 'a'}", "--weights=raw"), "is a Flax file", "leave --weights out")
