"""Keras' HDF5 files: the weights under Keras' names, and one sentence for each file that leads elsewhere, lies or is damaged."""

import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from bnext_jax.errors import UserError
from bnext_jax.io import foreign, hdf5, hdf5_child
from bnext_jax.io.save import save
from tests.helpers.commands import refused

# The first layers of larq zoo's Real-to-Binary, at a quarter of its width
SHAPES = {
    "r2b_bnn_block_1_conv2d": {"kernel": (7, 7, 3, 16)},
    "r2b_bnn_block_1_batch_norm": {"gamma": (16,), "beta": (16,), "moving_mean": (16,), "moving_variance": (16,)},
    "r2b_bnn_block_1_prelu": {"alpha": (1, 1, 16)},
    "activation": {},
    "r2b_bnn_block_2a_scaling_dense_reduce": {"kernel": (16, 2)},
}
LAYER, KERNEL = "r2b_bnn_block_1_conv2d", "r2b_bnn_block_1_conv2d/kernel"
PLACE = f"{LAYER}/{KERNEL}:0"


def drawn():
    rng = np.random.default_rng(0)
    return {
        f"{layer}/{name}": rng.standard_normal(shape, np.float32) for layer, weights in SHAPES.items() for name, shape in weights.items()
    }


def fixed(names):
    """Names as Keras kept them with h5py before version 3: texts of one length; none are an empty list of floats."""
    return np.array(names, "S" if names else float)


def fill(group, tensors, form="{layer}/{name}:0", kept=fixed):
    """Writes layers as Keras does. form: of the weights' names; kept: list for texts of any length, as with newer versions of h5py."""
    names = {layer: [form.format(layer=layer, name=name) for name in SHAPES[layer]] for layer in SHAPES}
    group.attrs["layer_names"] = kept(list(names))
    for layer, listed in names.items():
        made = group.create_group(layer)
        made.attrs["weight_names"] = kept(listed)
        for own, name in zip(listed, SHAPES[layer], strict=True):
            made.create_dataset(own, data=tensors[f"{layer}/{name}"])


def written(path, change=None, **how):
    """Writes a file of weights, and changes it with change(file)."""
    with h5py.File(path, "w") as file:
        fill(file, drawn(), **how)
        if change:
            change(file)
    return path


def check(path, expected=None):
    found, expected = foreign.read(path).tensors, expected or drawn()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].dtype.isnative
        np.testing.assert_array_equal(found[name], value)


def test_weights_have_the_name_of_their_layer_once_and_keep_their_layout(tmp_path):
    check(written(tmp_path / "a.h5"))
    check(written(tmp_path / "b.hdf5", form="{name}:0"))
    check(written(tmp_path / "c.h5", form="model/{layer}/{name}", kept=list))  # Keras 3
    with h5py.File(tmp_path / "d.h5", "w", libver="latest") as file:
        fill(file, drawn())
    check(tmp_path / "d.h5")


def test_the_file_of_a_whole_model_gives_its_weights_and_names_the_rest(tmp_path, caplog):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        fill(file.create_group("model_weights"), drawn())
        file["model_weights"].create_group("top_level_model_weights").attrs["weight_names"] = [b"scale:0"]
        file["model_weights/top_level_model_weights"]["scale:0"] = np.float32(2)
        file["optimizer_weights/iteration:0"] = 7
    check(tmp_path / "a.h5", {**drawn(), "top_level_model_weights/scale": np.array(2, np.float32)})
    assert "left out what is not of the network: optimizer_weights" in caplog.text


def test_a_long_list_of_names_in_numbered_parts_is_read_in_order(tmp_path):
    def parts(file):
        del file.attrs["layer_names"]
        for i, layer in enumerate(SHAPES):
            file.attrs[f"layer_names{i}"] = [layer.encode()]

    check(written(tmp_path / "a.h5", parts))


def test_halves_become_float32_and_other_byte_orders_the_machines_own(tmp_path):
    def narrow(file):
        values = drawn()[KERNEL]
        del file[PLACE]
        file[PLACE] = values.astype(np.float16)
        del file[f"{LAYER.replace('conv2d', 'prelu')}/{LAYER.replace('conv2d', 'prelu')}/alpha:0"]
        file[f"{LAYER.replace('conv2d', 'prelu')}/{LAYER.replace('conv2d', 'prelu')}/alpha:0"] = np.full((1, 1, 16), 0.25, ">f8")

    halves = drawn()[KERNEL].astype(np.float16).astype(np.float32)
    check(written(tmp_path / "a.h5", narrow), {**drawn(), KERNEL: halves, "r2b_bnn_block_1_prelu/alpha": np.full((1, 1, 16), 0.25)})


def put(**how):
    """A change that replaces the kernel of the first layer by a dataset made with these arguments."""

    def change(file):
        del file[PLACE]
        file.create_dataset(PLACE, **how)

    return change


def link(made, name=PLACE):
    def change(file):
        if name in file:
            del file[name]
        file[name] = made(file) if callable(made) else made

    return change


def listed(attribute, names, layer=None):
    return lambda file: (file[layer] if layer else file).attrs.__setitem__(attribute, names)


def virtual(file):
    layout = h5py.VirtualLayout((16,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "a", (16,))
    del file[PLACE]
    file.create_virtual_dataset(PLACE, layout)


def empty(file):
    file.attrs["layer_names"] = [b"activation"]
    for layer in set(SHAPES) - {"activation"}:
        del file[layer]


def keras3(file):
    for name in list(file):
        del file[name]
    del file.attrs["layer_names"]
    file["layers/conv2d/vars/0"] = np.zeros(3, np.float32)


WRONG = {
    "external link": (link(h5py.ExternalLink("/etc/other.h5", "/a")), f"{PLACE} in it is a link or a type (external link)"),
    "external group": (link(h5py.ExternalLink("other.h5", "/"), LAYER), f"{LAYER} in it is a link or a type (external link)"),
    "soft link": (link(h5py.SoftLink("/activation")), "(soft link)"),
    "circle of soft links": (link(h5py.SoftLink(f"/{PLACE}")), "(soft link)"),
    "circle of hard links": (link(lambda file: file["/"], "activation/up"), "has two links to the same object"),
    "shared array": (link(lambda file: file[PLACE], "activation/same"), "has two links to the same object"),
    "named type": (link(np.dtype("f4"), "activation/type"), "(named type)"),
    "external storage": (put(shape=(16,), dtype="f4", external=[("/etc/hostname", 0, 64)]), "in other files, not in one piece"),
    "virtual": (virtual, "in other datasets, not in one piece"),
    "compressed": (put(data=np.zeros((512, 512), np.float32), compression="gzip"), "in chunks, not in one piece"),
    "sparse": (put(shape=(2**40,), dtype="f4", chunks=(2**20,)), "in chunks, not in one piece"),
    "too large": (put(shape=(2**40,), dtype="f4"), "they were never written"),
    "text": (put(data="weights"), f"has entries that are no arrays of plain numbers: {PLACE}"),
    "texts": (put(data=np.array([b"a", b"b"])), "no arrays of plain numbers"),
    "lists": (put(shape=(2,), dtype=h5py.vlen_dtype("f4")), "no arrays of plain numbers"),
    "reference": (put(shape=(2,), dtype=h5py.ref_dtype), "no arrays of plain numbers"),
    "records": (put(shape=(2,), dtype=[("a", "f4")]), "no arrays of plain numbers"),
    "complex": (put(shape=(2,), dtype="c8"), "no arrays of plain numbers"),
    "booleans": (put(data=np.zeros(2, bool)), "no arrays of plain numbers"),
    "nothing": (put(dtype="f4"), "no arrays of plain numbers"),
    "whole numbers": (put(data=np.zeros(2, np.int32)), f"has whole numbers in place of weights: {PLACE}; save the network in float32"),
    "not held": (lambda file: file.__delitem__(PLACE), f"lists weights that it does not hold: {PLACE}"),
    "no group": (lambda file: file.__delitem__(LAYER), f"has no group {LAYER}, which it lists"),
    "not listed": (link(np.zeros(3, np.float32), "activation/more"), "holds arrays that it does not list: activation/more"),
    "layer not listed": (listed("layer_names", [b"activation", *map(str.encode, list(SHAPES)[1:3])]), "holds arrays that it does not list"),
    "layer twice": (listed("layer_names", [b"activation"] * 2), "lists several times: activation"),
    "weight twice": (listed("weight_names", [f"{KERNEL}:0".encode()] * 2, LAYER), f"lists several times: {KERNEL}"),
    "no names": (listed("weight_names", np.arange(3), LAYER), f"has no list of names in weight_names of {LAYER}"),
    "one name": (listed("layer_names", "activation"), "has no list of names in layer_names of its root"),
    "no lists": (lambda file: file.attrs.__delitem__("layer_names"), "neither layer_names nor model_weights"),
    "no weights": (empty, "holds no weights; load the network in Keras"),
    "Keras 3": (keras3, 'numbers the weights in place of naming them; load the network in Keras and save it with model.save("NAME.h5")'),
    "deep": (link(np.zeros(3, np.float32), "a/" * 40 + "a"), "more than 32 groups inside each other"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_leads_elsewhere_or_lies_is_refused_in_one_sentence(tmp_path, case):
    change, words = WRONG[case]
    path = written(tmp_path / "a.h5", change)
    with pytest.raises(UserError) as told:
        foreign.read(path)
    assert str(told.value).startswith(f"{path} ") and words in str(told.value) and "\n" not in str(told.value)


def test_a_file_cut_off_or_with_a_changed_size_is_refused_as_damaged(tmp_path):
    whole = written(tmp_path / "a.h5").read_bytes()
    for size in (9, 100, 5000, len(whole) - 1):
        (tmp_path / "b.h5").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"b\.h5 cannot be read \(.*\); it is damaged or truncated"):
            foreign.read(tmp_path / "b.h5")
    sides = b"".join(side.to_bytes(8, "little") for side in SHAPES[LAYER]["kernel"])
    assert sides in whole
    (tmp_path / "b.h5").write_bytes(whole.replace(sides, sides[:24] + (2**20).to_bytes(8, "little")))
    with pytest.raises(UserError, match=r"b\.h5 cannot be read \(.*\); it is damaged or truncated"):
        foreign.read(tmp_path / "b.h5")


def test_arrays_that_share_their_bytes_or_lie_behind_the_end_are_refused():
    def facts(offset):
        return {("a",): {"type": "<f4", "shape": [50], "layout": "contiguous", "offset": 0},
                ("b",): {"type": "<f4", "shape": [5, 10], "layout": "contiguous", "offset": offset}}  # fmt: skip

    hdf5._check(facts(200), 400)
    for offset, size in ((0, 399), (201, 400), (2**62, 400)):
        with pytest.raises(ValueError, match="has fewer bytes than b needs; it is truncated or damaged"):
            hdf5._check(facts(offset), size)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the HDF5 library was stopped by SIGSEGV"),
        ("raise SystemExit(3)", "needs h5py, which is not installed; `pip install h5py`"),
        ("raise SystemExit('broken')", "its reader ended with code 1: broken"),
    ],
)
def test_a_crash_of_the_library_and_a_missing_package_are_told(tmp_path, monkeypatch, code, words):
    path = written(tmp_path / "a.h5")
    (tmp_path / "child.py").write_text(code)
    monkeypatch.setattr(hdf5_child, "__file__", str(tmp_path / "child.py"))
    with pytest.raises(UserError) as told:
        foreign.read(path)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("body", "code", "words"), [("all(iter(lambda: 1, 0))", -signal.SIGXCPU, ""), ("'a' * 2**31", 0, "MemoryError")], ids=["time", "memory"]
)
def test_listing_ends_at_its_limits_of_time_and_memory(body, code, words):
    program = f"from bnext_jax.io import hdf5_child as c\nc.SECONDS, c.listed = 1, lambda path: {body}\nc.main('a')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code and words in done.stdout


def test_suffix_content_and_weights_that_do_not_fit_are_refused(tmp_path, run):
    good = written(tmp_path / "a.h5").read_bytes()
    for name, content, words in (
        ("a.pth", good, "is a Keras HDF5 file, but its suffix says otherwise; rename it"),
        ("b.h5", b"PK\x03\x04 and so on", "is a PyTorch file, but its suffix says otherwise; rename it"),
        ("c.h5", b"something else", "is no HDF5 file; it is damaged or something else"),
        ("d.h5", b"", "is empty; fetch it again"),
        ("e.keras", b"PK\x03\x04 and so on", "is an archive of Keras 3"),
        ("f.npz", b"PK\x03\x04", "its suffix must be one of .pth.tar, .pth, .pt, .bin, .ckpt, .safetensors, .h5, .hdf5, .msgpack"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(run("count", f"--checkpoint={tmp_path / name}"), str(tmp_path / name), words)
    known = "the file looks like Real-to-Binary but lacks 'r2b_bnn_block_2_logits/bias'"
    refused(run("count", f"--checkpoint={tmp_path / 'a.h5'}"), known)
    words = "is a Keras HDF5 file, which holds one network only; leave --weights out"
    refused(run("predict", f"--checkpoint={tmp_path / 'a.h5'}", "--weights=ema", "cat.jpg"), words)


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.msgpack", "a.keras"])
def test_keras_and_flax_files_are_not_written(tmp_path, run, name):
    words = f"{tmp_path / name} has the suffix of a Keras or Flax file, which is only read, not written; use a suffix of PyTorch"
    refused(run("convert", "--source=missing.pth", f"--output={tmp_path / name}"), words)
    with pytest.raises(UserError, match="only read, not written"):
        save(tmp_path / name, None)
    assert not list(tmp_path.iterdir())
