"""A packed convolution equals sums that numpy computes from the levels, the signs and the padded map."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.quantizers import ActivationQuantizer, SteSign
from bnext_jax.nn.weight_quantizers import AnnealedSign
from bnext_jax.packed import xla
from bnext_jax.packed.layout import packed_bits


@dataclasses.dataclass(frozen=True)
class Wide(ActivationQuantizer):
    """-1.5 below 0, else 1.5."""

    levels = (-1.5, 1.5)
    at_zero = 1.5

    def __call__(self, x, shift=None):
        return jnp.where((x if shift is None else x + shift) >= 0, 1.5, -1.5).astype(x.dtype)


def expected(levels, signs, stride, padding, pad_value):
    """The convolution of a map of levels [N,H,W,I] with signs [k,k,I,O], as sums of products of float64 numbers: exact."""
    size, (height, width) = signs.shape[0], levels.shape[1:3]
    sides = [-(-side // stride) for side in (height, width)]
    if padding == "torch":
        pads = [(size // 2, size // 2)] * 2
    else:
        totals = [max((after - 1) * stride + size - before, 0) for after, before in zip(sides, (height, width), strict=True)]
        pads = [(total // 2, total - total // 2) for total in totals]
    padded = np.pad(levels.astype(float), ((0, 0), *pads, (0, 0)), constant_values=pad_value)
    out = np.zeros((levels.shape[0], *sides, signs.shape[-1]))
    for i in range(sides[0]):
        for j in range(sides[1]):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.tensordot(window, signs.astype(float), 3)
    return out


SIGNS = SteSign()


def packed(inputs, features, size, stride=1, *, quantizer=SIGNS, positive=None, **options):
    """Returns (a PackedConv, its signs [k,k,I,O])."""
    layer = BinaryConv(
        inputs, features, size, stride, input_quantizer=quantizer, kernel_quantizer=AnnealedSign(), rngs=nnx.Rngs(0), **options
    )
    if positive is None:
        positive = np.random.default_rng(1).random((size, size, inputs, features)) < 0.5
    return xla.PackedConv(layer, packed_bits(positive)), np.where(positive, 1, -1)


def drawn(*shape):
    return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("inputs", [1, 8, 33, 48, 96])
@pytest.mark.parametrize(("size", "stride", "side"), [(1, 1, 5), (3, 1, 5), (3, 2, 6), (3, 2, 7)])
def test_signs_of_a_shifted_map(inputs, size, stride, side):
    conv, signs = packed(inputs, 10, size, stride)
    x, shift = drawn(2, side, side + 1, inputs), drawn(inputs)
    found = conv(jnp.asarray(x), shift=jnp.asarray(shift))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected(np.where(x + shift > 0, 1, -1), signs, stride, "torch", 0))


@pytest.mark.parametrize("padding", ["torch", "same"])
@pytest.mark.parametrize("pad_value", [0, 1, -1.5])
@pytest.mark.parametrize("quantizer", [SteSign(), SteSign(levels=(0.0, 1.0)), Wide()], ids=["signs", "zero and one", "wide"])
def test_levels_and_padding(padding, pad_value, quantizer):
    x = drawn(2, 6, 7, 20)
    levels = np.where(x > 0, quantizer.levels[1], quantizer.levels[0])
    for stride in (1, 2):
        conv, signs = packed(20, 4, 3, stride, quantizer=quantizer, padding=padding, pad_value=pad_value)
        np.testing.assert_array_equal(conv(jnp.asarray(x)), expected(levels, signs, stride, padding, pad_value))


def test_an_input_that_is_quantized_already():
    x = np.where(drawn(1, 4, 4, 12) > 0, 1, -1).astype(np.float32)
    conv, signs = packed(12, 3, 3, quantizer=None)
    np.testing.assert_array_equal(conv(jnp.asarray(x)), expected(x, signs, 1, "torch", 0))


@pytest.mark.parametrize(("at_zero", "sign"), [(1, 1), (0, 1), (-1, -1)])
def test_zero_is_the_value_of_the_quantizer_and_a_third_value_is_plus_one(at_zero, sign):
    conv, signs = packed(9, 3, 1, quantizer=SteSign(at_zero=at_zero))
    found = conv(jnp.zeros((1, 2, 2, 9)))
    np.testing.assert_array_equal(found, np.broadcast_to(sign * signs.sum((0, 1, 2)), (1, 2, 2, 3)))


def test_the_largest_sums_of_a_network_are_exact():
    conv, _ = packed(2048, 2, 3, positive=np.zeros((3, 3, 2048, 2), bool))
    found = np.asarray(conv(jnp.ones((1, 3, 3, 2048))))
    taps = np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    np.testing.assert_array_equal(found[0, :, :, 1], -2048 * taps)


def test_more_differing_bits_than_sixteen_bits_can_count():
    found = xla.mismatches(jnp.full((1, 9000), 255, jnp.uint8), jnp.zeros((9000, 1), jnp.uint8))
    assert found.tolist() == [[72000]]


def test_a_scale_multiplies_each_output_channel():
    layer = BinaryConv(8, 3, 1, input_quantizer=SteSign(), kernel_quantizer=AnnealedSign(), rngs=nnx.Rngs(0))
    conv = xla.PackedConv(layer, packed_bits(np.ones((1, 1, 8, 3), bool)), np.array([0.5, 2, 0.25], np.float32))
    np.testing.assert_array_equal(conv(jnp.ones((1, 1, 1, 8)))[0, 0, 0], [4, 16, 2])


def test_types_of_input_and_output():
    conv, signs = packed(300, 4, 1, quantizer=None)
    x = np.where(drawn(1, 3, 3, 300) > 0, 1, -1)
    exact = expected(x, signs, 1, "torch", 0)
    assert np.abs(exact).max() > 16
    given = jnp.asarray(x, jnp.bfloat16)
    assert conv(given).dtype == jnp.bfloat16
    found = jax.jit(lambda x: conv(x, 0.0, dtype=jnp.float32))(given)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)
