"""Small PyTorch files that would take much time or memory are refused at once."""

import tracemalloc
import zipfile

import pytest

from bnext_jax.errors import UserError
from bnext_jax.io.torch import choice, objects, torch_files

TEXT = 300_000  # characters


def test_names_that_are_joined_again_and_again_are_refused(tmp_path):
    text = b"X" + TEXT.to_bytes(4, "little") + b"a" * TEXT
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x04](" + text + b"\x94" + b"h\x00h\x00\x93" * 1000 + b"e.")
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            torch_files.read(tmp_path / "a.pth")
        assert tracemalloc.get_traced_memory()[1] < 20 * TEXT  # 1,000 names would take 2,000 times the text
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**100_000], ids=["+", "-", "long"])
def test_sizes_of_more_than_64_bits_are_refused(number):
    with pytest.raises(ValueError, match="a number of more than 64 bits"):
        objects.call(objects.Named("torch.Size"), ((2, number),))
    assert objects.call(objects.Named("torch.Size"), ((2, 2**63 - 1),)) == (2, 2**63 - 1)


def test_many_prefixes_beside_many_other_names_take_linear_memory():
    many = 3000
    held = objects.Tensor(objects.Storage("0", "float32", 1, 0, 1), "float32", 0, (1,), (1,))
    content = {f"p{i}.feature.0.conv1.weight": held for i in range(many)} | {f"q{i}": held for i in range(many)}
    tracemalloc.start()
    try:
        found = choice.find(content)
        assert len({id(weights.beside) for weights in found}) == 1 and tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
