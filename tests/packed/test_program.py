"""The words of a program are those of docs/packed_format.md. The expected operations are written by hand, from the page."""

import json

import numpy as np
import pytest

from bnext_jax.packed import file
from bnext_jax.packed.pack import pack
from tests.helpers.exact_networks import exact_network

NONE = 0xFFFFFFFF
REFERENCES = {1: range(7, 12), 2: (), 3: (*range(7, 16), *range(18, 31)), 4: (3, *range(5, 10))}  # words that name tensors, by kind


def written(tmp_path, *names, scaled=None, **arguments):
    """Packs a network into a file. Returns the first words of its program and its operations, with names in place of tensor numbers."""
    model, metadata = exact_network(*names, **arguments)
    file.write(tmp_path / "net.bnext", *pack(model, {**metadata, "preprocessing": scaled}))
    content = (tmp_path / "net.bnext").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entries = {entry["data_offsets"][0]: (name, entry) for name, entry in header.items() if name != "__metadata__"}
    words = np.frombuffer(data, "<u4", header["program"]["shape"][0])
    count, operations = int(words[2]), int(words[3])
    assert header["program"]["data_offsets"][0] == 0 and words[14] == len(words) == 16 + 4 * count + 32 * operations and words[15] == 0
    table = []
    for kind, elements, low, high in words[16 : 16 + 4 * count].reshape(-1, 4).tolist():
        name, entry = entries[low + 2**32 * high]
        assert (kind, elements) == (["F32", "U32", "U8"].index(entry["dtype"]), np.prod(entry["shape"]))
        table.append(name)
    assert len(set(table)) == count
    found = []
    for operation in words[16 + 4 * count :].reshape(-1, 32).tolist():
        references = REFERENCES[operation[0]]
        found.append([None if i in references and w == NONE else table[w] if i in references else w for i, w in enumerate(operation)])
    return words[:16], found


def padded(*words):
    """An operation, filled with zeros to 32 words."""
    return [*words, *[0] * (32 - len(words))]


def unit(path, inputs, outputs, size, stride, flavour, side=0, *, slope=None, gate=True, norm=True, bits=32, shortcut=None):
    """The expected operation of a unit with all its parts, or without a gate, without the second norm, or with a shortcut."""
    low = bits != 32
    layers = []
    for layer in ("reduce", "expand"):
        names = ["kernel", "kernel_low" if low else None, "kernel_step" if low else None, "bias"]
        layers += [f"{path}/gate/{layer}/{name}" if gate and name else None for name in names]
    return padded(
        3, inputs, outputs, size, stride, flavour, side, f"{path}/conv/kernel", f"{path}/shift",
        f"{path}/norm1/scale", f"{path}/norm1/bias", f"{path}/activation2/slope", f"{path}/activation1/slope" if slope else None,
        f"{path}/scale" if gate else None, *(f"{path}/norm2/{name}" if norm else None for name in ("scale", "bias")),
        outputs // 8 if gate else 0, bits if gate else 0, *layers,
        *(f"{path}/shortcut/{name}" if shortcut else None for name in ("conv/kernel", "norm/scale", "norm/bias")),
        *(f"{path}/gate/{layer}/quantizer/input_clip" if low else None for layer in ("reduce", "expand")),
    )  # fmt: skip


def test_program_of_a_small_bnext(tmp_path):
    scaled = {"mean": [0.5, 0.25, 1], "std": [2, 0.5, 1], "eval_transform": "", "image_shape": [48, 64, 3]}
    head, found = written(tmp_path, widths=(8, 16, 32), stem_stride=2, scaled=scaled)
    floats = np.array([0.5, 0.25, 1, 2, 0.5, 1], np.float32).view(np.uint32)
    assert bytes(head[:1].view(np.uint8)) == b"BNXT"
    # strides: the stem 2, the first block 1, the second block 2 because it widens
    assert head[1:].tolist() == [1, head[2], 8, 10, 4, 48, 64, *floats, head[14], 0]
    assert found == [
        padded(1, 3, 8, 3, 2, 1, 32, "stem/conv/kernel", None, None, "stem/norm/scale", "stem/norm/bias"),
        unit("blocks/0/unit3x3", 8, 8, 3, 1, 0),
        unit("blocks/0/units1x1/0", 8, 8, 1, 1, 0, 1),
        unit("blocks/0/units1x1/1", 8, 8, 1, 1, 0, 2),
        unit("blocks/1/unit3x3", 16, 16, 3, 2, 1, slope=True),
        unit("blocks/1/units1x1/0", 16, 16, 1, 1, 0, 1),
        unit("blocks/1/units1x1/1", 16, 16, 1, 1, 0, 2),
        padded(4, 32, 10, "prelu/slope", 32, "classifier/kernel", None, None, "classifier/bias", None),
    ]


def test_program_without_info_recoupling(tmp_path):
    head, found = written(tmp_path, widths=(8, 8, 8), info_recoupling=False)
    assert head[5:14].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]  # no preprocessing: size, mean and deviation are unknown
    assert found[1:-1] == [
        unit("blocks/0/unit3x3", 8, 8, 3, 1, 0, gate=False, norm=False),
        unit("blocks/0/units1x1/0", 8, 8, 1, 1, 0, gate=False, norm=False),
        unit("blocks/1/unit3x3", 8, 8, 3, 1, 1, slope=True, gate=False),
        unit("blocks/1/units1x1/0", 8, 8, 1, 1, 0, gate=False, norm=False),
    ]


def test_program_without_elm_attention(tmp_path):
    _, found = written(tmp_path, widths=(8, 8, 16), elm_attention=False)
    assert found[3] == unit("blocks/1/unit3x3", 8, 8, 3, 2, 0)


@pytest.mark.parametrize("gate_bits", [4, 8])
def test_program_of_a_quantized_edition(tmp_path, gate_bits):
    _, found = written(tmp_path, widths=(8, 8), gate_bits=gate_bits, stem_bits=8, classifier_bits=4)
    parts = "kernel", "kernel_low", "kernel_step"
    stem = [f"stem/conv/{name}" for name in parts]
    assert found == [
        padded(1, 3, 8, 3, 1, 1, 8, *stem, "stem/norm/scale", "stem/norm/bias"),
        unit("blocks/0/unit3x3", 8, 8, 3, 1, 0, bits=gate_bits),
        unit("blocks/0/units1x1/0", 8, 8, 1, 1, 0, bits=gate_bits),
        padded(4, 8, 10, "prelu/slope", 4, *(f"classifier/{name}" for name in (*parts, "bias", "quantizer/input_clip"))),
    ]


def test_program_of_bnext_18(tmp_path):
    head, found = written(tmp_path, "bnext18", widths=(8, 16), stem_stride=2)
    assert head[5] == 8  # the stem 2, its maximum 2, the second stage 2
    units = [f"stages/{i}/{j}" for i in range(2) for j in range(2)]
    assert found == [
        padded(1, 3, 8, 7, 2, 3, 32, "conv/kernel", None, None, "norm/scale", "norm/bias"),
        padded(2, 3, 2, 1),
        unit(f"{units[0]}/attention", 8, 8, 3, 1, 2, slope=True),
        unit(f"{units[0]}/feed_forward", 8, 8, 3, 1, 0),
        unit(f"{units[1]}/attention", 8, 8, 3, 1, 2, slope=True),
        unit(f"{units[1]}/feed_forward", 8, 8, 3, 1, 0),
        unit(f"{units[2]}/attention", 8, 16, 3, 2, 2, slope=True, shortcut=True),
        unit(f"{units[2]}/feed_forward", 16, 16, 3, 1, 0),
        unit(f"{units[3]}/attention", 16, 16, 3, 1, 2, slope=True),
        unit(f"{units[3]}/feed_forward", 16, 16, 3, 1, 0),
        padded(4, 16, 10, "prelu/slope", 32, "classifier/kernel", None, None, "classifier/bias", None),
    ]


def test_a_network_that_is_too_wide_for_the_engine_has_no_program():
    for width, has in ((2184, True), (2192, False)):  # a 3x3 kernel adds up to 15 * width, which must fit 16 bits: 15 * 2184 = 32760
        model, metadata = exact_network(widths=(width, width))
        assert ("program" in pack(model, metadata)[0]) == has
