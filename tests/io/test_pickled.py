"""Files of torch.save: objects that are not tensors are skipped and run nothing, in every position; damaged files are refused."""

import argparse
import collections
import copy
import datetime
import enum
import functools
import io
import itertools
import os
import pathlib
import pickle
import pickletools
import random
import re
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
import torch

from bnext_jax.errors import UserError
from bnext_jax.io.torch import torch_files

NAME = "feature.0.conv1.weight"  # a name by which a BNext is known
ZIPS = {"zip": True, "older": False}


class Phase(enum.Enum):
    TRAINING = "training"


class Meter(dict):
    """An object of a program that is not installed where the file is read."""


def history():
    layer = torch.nn.Linear(2, 2)
    meter = Meter(loss=1.0)
    meter.self = meter
    return [
        pathlib.PosixPath("/data"), pathlib.PureWindowsPath("C:/data"), collections.defaultdict(list, a=[1]), collections.deque([1, 2]),
        collections.Counter("abc"), datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), datetime.date(2024, 1, 2),
        datetime.timedelta(1), types.SimpleNamespace(a=1), argparse.Namespace(a=range(3)), slice(1, 2), {1, 2}, frozenset([1]), 1j, b"a",
        bytearray(b"b"), functools.partial(int, base=2), torch.nn.CrossEntropyLoss(), torch.optim.Adam(layer.parameters()), layer,
        np.float64(1), np.int64(3), np.arange(3), np.array(["a", None], object), np.dtype("f4"), Phase.TRAINING, meter, Meter, len,
        torch.device("cpu"), torch.float16, torch.Size([1, 2]), torch.ones(2).to_sparse(), {(1, (2, 3)): 4}, 2**70, {Phase.TRAINING: 1},
    ]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", ZIPS)
def test_every_kind_of_tensor_is_read_beside_every_kind_of_object(tmp_path, form, protocol):
    numbers = torch.arange(12.0)
    tensors = {
        NAME: torch.ones(2, 3), "turned": numbers.view(3, 4).t(), "part": numbers[5:9:2], "all": numbers, "half": numbers.half(),
        "bfloat16": torch.tensor([1.5, -2.0, 3e38]).bfloat16(), "double": numbers.double(), "scalar": torch.tensor(7),
        "bool": torch.tensor([True, False]), "none": torch.ones(0, 3), "p": torch.nn.Parameter(torch.ones(2)),
        "uint16": torch.tensor([65535]).to(torch.uint16),
        "expanded": torch.ones(1).expand(3), "int8": torch.tensor([-1], dtype=torch.int8),
    }  # fmt: skip
    tensors["again"] = tensors["turned"]
    content = {"history": history(), "model": collections.OrderedDict(tensors), "more": {i: one for i, one in enumerate(history())}}
    torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=ZIPS[form])
    found = torch_files.read(tmp_path / "a.pth").tensors
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        expected = (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).detach().numpy()
        assert found[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_a_file_of_a_machine_with_the_other_byte_order_gives_the_same_numbers(tmp_path):
    torch.save({NAME: torch.tensor([1.0, -3.5])}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries |= {"a/byteorder": b"big", "a/data/0": np.array([1.0, -3.5], ">f4").tobytes()}
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    np.testing.assert_array_equal(torch_files.read(tmp_path / "a.pth").tensors[NAME], np.array([1.0, -3.5], np.float32))


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({NAME: torch.ones(2)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch_files.read(tmp_path / "a.pth").tensors[NAME].tolist() == [1, 1]


def test_a_state_dict_of_python_2_is_read(tmp_path):
    """Python 2 wrote an OrderedDict as a call with the list of its items, and texts as bytes."""
    torch.save({NAME: torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    text = b"X" + len(NAME).to_bytes(4, "little") + NAME.encode()
    start = content.index(b"}q\x00" + text)
    short = b"U" + bytes([len(NAME)]) + NAME.encode()
    before = b"ccollections\nOrderedDict\n](](" + short  # the class, a list of items, an item, its name
    end = content.index(b"s.", start)
    changed = content[:start] + before + content[start + 3 + len(text) :][: end - start - 3 - len(text)] + b"ee\x85R." + content[end + 2 :]
    (tmp_path / "a.pth").write_bytes(changed)
    assert torch_files.read(tmp_path / "a.pth").tensors[NAME].tolist() == [1, 1]


class Call:
    """An object that is pickled as a call of `function`, with a state."""

    def __init__(self, function, *arguments, state=None):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts

    def __hash__(self):
        return 1


def traps(mark):
    """{position: content of a file} of calls that would make the folder `mark`, at every place where a pickle may hold an object."""
    call = Call(os.mkdir, mark)
    state = {NAME: torch.ones(2)}
    return {
        "value": {"model": state, "history": [call]},
        "key": {"model": state, call: 1},
        "key of the state": {"model": {**state, call: 1}},
        "in a set": {"model": state, "a": {call}, "b": frozenset([call]), "c": (call,)},
        "state of an object": {"model": state, "a": Call(argparse.Namespace, state={"b": call})},
        "argument": {"model": state, "a": Call(len, call)},
        "command line": {"model": state, "a": Call(os.system, f"mkdir {mark}")},
        "evaluated": {"model": state, "a": Call(eval, f"__import__('os').mkdir({mark!r})")},
        "attribute": {"model": state, "a": Call(getattr, Call(__import__, "os"), "mkdir")},
        "items": {"model": state, "a": Call(collections.OrderedDict, [[call, call]]), "b": Call(collections.deque, [call])},
        "map": {"model": state, "a": Call(list, Call(map, os.mkdir, [mark]))},
        "hub": {"model": state, "a": Call(torch.hub.load, mark, "x"), "b": Call(torch.load, mark), "c": Call(np.frombuffer, b"1234")},
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ZIPS)
def test_nothing_that_a_file_names_ever_runs_in_any_position(tmp_path, form, protocol):
    mark = str(tmp_path / "mark")
    for position, content in traps(mark).items():
        torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=ZIPS[form])
        assert not os.path.exists(mark)
        try:
            assert list(torch_files.read(tmp_path / "a.pth").tensors) == [NAME], position
        except UserError as error:
            assert position == "key of the state" and "no tensors: Inert" in str(error)
        assert not os.path.exists(mark), position
    for content in (Call(os.mkdir, mark), [Call(os.mkdir, mark)], {"model": {NAME: Call(os.mkdir, mark)}}):
        torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=ZIPS[form])
        with pytest.raises(UserError):
            torch_files.read(tmp_path / "a.pth")
        assert not os.path.exists(mark)
    pickle.loads(pickle.dumps(Call(os.mkdir, mark)))
    assert os.path.exists(mark)  # shows that the traps work


def archive(path, content, **more):
    """Writes an archive as torch.save does, with this pickle and these storages."""
    with zipfile.ZipFile(path, "w") as file:
        for name, part in {"a/data.pkl": content, "a/byteorder": b"little", **more}.items():
            file.writestr(name, part)
    return path


def state(storage=b"ctorch\nFloatStorage\n", key=b"S'0'\n", elements=b"K\x02", offset=b"K\0", size=b"K\x02\x85", stride=b"K\x01\x85"):
    """The pickle of a state dict with one tensor, written by hand. Each part may be another."""
    held = b"(S'storage'\n" + storage + key + b"S'cpu'\n" + elements + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + offset + size + stride + b"\x89}tR"
    return b"\x80\x02}S'" + NAME.encode() + b"'\n" + tensor + b"s."


RUN = b"cposix\nmkdir\nS'MARK'\n\x85R"  # a call, in the place of a part
WRONG = {
    "a call as storage": {"storage": RUN}, "a call as key": {"key": RUN}, "a call as size": {"size": RUN},
    "a call as offset": {"offset": RUN},
    "a class that is no storage": {"storage": b"cposix\nmkdir\n"}, "no such storage": {"key": b"S'1'\n"},
    "a key outside": {"key": b"S'../data.pkl'\n"}, "more elements than bytes": {"elements": b"K\x03", "size": b"K\x03\x85"},
    "a larger size": {"size": b"K\x03\x85"}, "a huge size": {"size": b"\x8a\x09" + b"\0" * 8 + b"\1\x85"},
    "a negative size": {"size": b"J\xff\xff\xff\xff\x85"}, "a negative offset": {"offset": b"J\xff\xff\xff\xff"},
    "a large offset": {"offset": b"K\x01"}, "a negative stride": {"stride": b"J\xff\xff\xff\xff\x85"},
    "a large stride": {"stride": b"K\x02\x85"}, "two strides": {"stride": b"K\x01K\x01\x86"}, "a text as size": {"size": b"S'ab'\n"},
    "33 dimensions": {"size": b"(" + b"K\x01" * 33 + b"t", "stride": b"(" + b"K\x01" * 33 + b"t"}, "a fraction": {"offset": b"F0.5\n"},
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused_and_runs_nothing(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = {"a/data/0": np.ones(2, np.float32).tobytes()}
    assert torch_files.read(archive(tmp_path / "a.pth", state(), **numbers)).tensors[NAME].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"damaged|repeat few numbers"):
        torch_files.read(archive(tmp_path / "a.pth", state(**WRONG[case]), **numbers))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


DEEP = 200_000
BOMBS = {
    "nested tuples as a key": b"\x80\x02})" + b"\x85" * DEEP + b"K\x01s.",
    "nested lists": b"\x80\x02" + b"](" * DEEP + b"e" * (DEEP - 1) + b"0].",
    "nested dicts": b"\x80\x02" + b"}K\x01" * DEEP + b"}" + b"s" * DEEP + b".",
    "nested calls": b"\x80\x02ca\nb\n" + b")R" * DEEP + b".",
    "lists that double": b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b".",
    "a place far away": b"\x80\x02]r\xff\xff\xff\xff.",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xffa.",
    "bytes of 2 ** 62": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"a.",
    "a number of many digits": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "items used twice": b"\x80\x02](" + b"".join(b"M%sK\0\x86" % i.to_bytes(2, "little") for i in range(5000)) + b"eq\x01"
    + b"ccollections\nOrderedDict\nh\x01\x85R" * 5000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_small_file_does_not_take_much_memory_or_time(tmp_path, case):
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            torch_files.read(archive(tmp_path / "a.pth", BOMBS[case]))
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


def test_a_nested_tuple_as_the_key_of_a_storage_is_refused(tmp_path):
    """Its hash would overflow the stack, and so would its text in a message."""
    torch.save({NAME: torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    start = content.rindex(b"\x80\x02]q\x00")  # the list of the keys
    (tmp_path / "a.pth").write_bytes(content[:start] + b"\x80\x02])" + b"\x85" * DEEP + b"a." + content[start:])
    with pytest.raises(UserError, match=r"tuple in place of str"):
        torch_files.read(tmp_path / "a.pth")


def test_an_archive_whose_storages_share_their_bytes_is_refused(tmp_path):
    """Many names of one storage in the archive's list would make many copies."""
    path, buffer = tmp_path / "a.pth", io.BytesIO()
    torch.save({f"feature.{i}.weight": torch.ones(5000) for i in range(6)}, buffer)
    with zipfile.ZipFile(buffer) as file:
        entries = {name: file.read(name) for name in file.namelist() if not re.search(r"/data/[1-9]", name)}
        count = sum(bool(re.search(r"/data/", name)) for name in file.namelist())
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
        for i in range(1, count):
            twin = copy.copy(file.getinfo("archive/data/0"))
            twin.filename = f"archive/data/{i}"
            file.filelist.append(twin)
    with pytest.raises(UserError, match="its parts are larger than the file"):
        torch_files.read(path)


CODES = [code.code.encode("latin-1") for code in pickletools.opcodes]
PIECES = [
    *CODES, b"cos\nsystem\n", b"(S'true'\nt", b"K\x05", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"h\x01", b"q\x01",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"X\x01\0\0\0a",
]  # fmt: skip


def instructions(content):
    """The bytes of each instruction of a pickle."""
    places = [place for _, _, place in pickletools.genops(content)]
    return [content[start:end] for start, end in itertools.pairwise([*places, len(content)])]


def changed(parts, chance):
    """Instructions with one to four changes: dropped, replaced, put in, moved or repeated."""
    parts = list(parts)
    for _ in range(chance.randint(1, 4)):
        i, j = chance.randrange(len(parts)), chance.randrange(len(parts))
        piece = chance.choice([[], [chance.choice(PIECES)], [parts[i], chance.choice(PIECES)], parts[j : j + 8], [parts[j]] * 30])
        parts[i : i + 1] = piece or [b""]
    return b"".join(parts)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_changed_instructions_is_read_or_refused(tmp_path, protocol):
    chance, told = random.Random(protocol), collections.Counter()
    content = {
        "model": {NAME: torch.ones(2), "fc.weight": torch.ones(2, 2).t()},
        "epoch": 1,
        "a": [argparse.Namespace(b={1}), Call(os.mkdir, "mark")],
    }
    torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol)
    with zipfile.ZipFile(tmp_path / "a.pth") as file:
        storages = {name: file.read(name) for name in file.namelist() if "/data/" in name}
        parts = instructions(file.read("a/data.pkl"))
    for _ in range(700):
        path = archive(tmp_path / "a.pth", changed(parts, chance), **storages)
        try:
            told["read"] += sum(value.nbytes for value in torch_files.read(path).tensors.values()) <= 8 * path.stat().st_size
        except UserError as error:
            assert "\n" not in str(error)
            told["refused"] += 1
    assert told.total() == 700 and min(told.values()) > 30
