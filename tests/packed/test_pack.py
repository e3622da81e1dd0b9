"""`pack` writes the sign bits of latent weights, folds batch norm, keeps codes of low-bit kernels, and refuses what is not binary."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.analysis.count import weigh
from bnext_jax.errors import UserError
from bnext_jax.models.table import create_model
from bnext_jax.packed.layout import packed_bits, packed_codes, unpacked_bits, unpacked_codes
from bnext_jax.packed.pack import pack
from tests.helpers.exact_networks import exact_network


def test_bits_of_a_kernel_are_those_written_by_hand():
    positive = np.zeros((1, 1, 34, 2), bool)
    positive[0, 0, [0, 2, 31, 33], 0] = True
    positive[0, 0, 32, 1] = True
    words = packed_bits(positive)
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, [[[[0b101 | 1 << 31, 0], [0b10, 0b1]]]])
    np.testing.assert_array_equal(unpacked_bits(words, 34), positive)


def test_four_bit_codes_stand_two_in_a_byte():
    codes = np.array([[1, 15, 2], [0, 8, 7]])
    np.testing.assert_array_equal(packed_codes(codes, 4), [1 + 16 * 15, 2, 8 + 16 * 7])
    np.testing.assert_array_equal(packed_codes(codes[:, :1].repeat(3, 1)[:1], 4), [1 + 16, 1])
    np.testing.assert_array_equal(unpacked_codes(packed_codes(codes, 4), 4, (2, 3)), codes)
    np.testing.assert_array_equal(packed_codes(codes, 8), codes)


def test_a_latent_weight_of_zero_counts_as_plus_one_and_is_counted():
    model, metadata = exact_network(widths=(8, 8))
    kernel = model.blocks[0].unit3x3.conv.kernel
    latent = np.full((3, 3, 8, 8), -0.1, np.float32)
    latent[0, 1, 3, 5], latent[0, 1, 4, 5], latent[2, 2, 7, 0] = 0, 0.2, 0
    kernel[...] = jnp.asarray(latent)
    tensors, description = pack(model, metadata)
    expected = np.zeros((3, 3, 1, 8), np.uint32)
    expected[0, 1, 0, 5], expected[2, 2, 0, 0] = 0b11000, 1 << 7
    np.testing.assert_array_equal(tensors["blocks/0/unit3x3/conv/kernel"], expected)
    assert description["zero_weights"] == 2
    assert (description["format"], description["model"]["name"], description["class_names"]) == (1, "bnext", [])


def test_batch_norm_becomes_a_factor_and_an_offset():
    model, metadata = exact_network(widths=(8, 8))
    norm = model.stem.norm
    for variable, value in ((norm.scale, 3.0), (norm.bias, 0.5), (norm.mean, -2.0), (norm.var, 4 - 1e-5)):
        variable[...] = jnp.full((8,), value)
    tensors, _ = pack(model, metadata)
    np.testing.assert_allclose(tensors["stem/norm/scale"], np.full(8, 1.5), rtol=1e-6)
    np.testing.assert_allclose(tensors["stem/norm/bias"], np.full(8, 3.5), rtol=1e-6)
    assert not [name for name in tensors if name.endswith(("mean", "var", "batches", "temperature"))]


@pytest.mark.parametrize(("bits", "middle"), [(8, 85), (4, 5)])
def test_a_low_bit_kernel_becomes_codes(bits, middle):
    model, metadata = exact_network(widths=(8, 8), classifier_bits=bits)
    kernel = np.zeros((8, 10), np.float32)
    kernel[0, 4], kernel[1, 4] = -1, 2  # the range is 3, and 0 is at a third of it
    model.classifier.kernel[...] = jnp.asarray(kernel)
    tensors, _ = pack(model, metadata)
    expected = np.zeros((8, 10), int)
    expected[:, 4] = [0, 2**bits - 1, *[middle] * 6]
    np.testing.assert_array_equal(unpacked_codes(tensors["classifier/kernel"], bits, (8, 10)), expected)
    assert tensors["classifier/kernel"].shape == ((8, 10) if bits == 8 else (40,))
    np.testing.assert_allclose(tensors["classifier/kernel_low"], [0, 0, 0, 0, -1, 0, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(tensors["classifier/kernel_step"][4], 3 / (2**bits - 1), rtol=1e-6)


def test_weights_beyond_the_clip_limits_get_the_value_of_the_limit():
    model, metadata = exact_network(widths=(8, 8), classifier_bits=8)
    kernel = np.zeros((8, 10), np.float32)
    kernel[:, 0] = [-8, 8, 4, 4, 0, 0, 0, 8]  # the factor, 2 mean|w|, is 8
    model.classifier.kernel[...] = jnp.asarray(kernel)
    model.classifier.quantizer.weight_clip[...] = jnp.array([-0.25, 0.5])
    tensors, _ = pack(model, metadata)
    found = tensors["classifier/kernel"][:, 0] * tensors["classifier/kernel_step"][0] + tensors["classifier/kernel_low"][0]
    np.testing.assert_allclose(found, [-2, 4, 4, 4, 0, 0, 0, 4], atol=1e-5)


@pytest.mark.parametrize(("name", "arguments"), [("bnext", {"widths": (32, 64, 64)}), ("bnext18", {"widths": (32, 64)})])
def test_the_size_is_that_of_count(name, arguments):
    model, metadata = exact_network(name, **arguments)
    tensors, _ = pack(model, metadata)
    assert sum(array.nbytes for key, array in tensors.items() if key != "program") == weigh(model)["bytes"]


def test_a_quantized_network_has_only_its_ranges_and_limits_more_than_count_says():
    model, metadata = exact_network(widths=(32, 32), gate_bits=4, stem_bits=8, classifier_bits=8)
    tensors, _ = pack(model, metadata)
    # Gates C/8 and C for two units, classifier 10, stem 3 * 32: low and step. Clip limits: 2 pairs a layer, and the classifier's scale.
    ranges, limits = 2 * (2 * (4 + 32) + 10 + 3 * 32), 4 * (4 + 1 + 1) + 1
    assert sum(array.nbytes for key, array in tensors.items() if key != "program") == weigh(model)["bytes"] + 4 * (ranges + limits)


def test_a_network_without_binary_weights_is_refused():
    for name, arguments in (("convnext", {"patch": 4}), ("resnet", {})):
        model = create_model(name, 3, widths=(8,), depths=(1,), rngs=nnx.Rngs(0), **arguments)
        with pytest.raises(UserError, match="the network has no binary weights; there is nothing to pack"):
            pack(model, {})


@pytest.mark.parametrize(("name", "temperature", "limit"), [("bnext", 1, "1e-07"), ("bnext", 1e-6, "1e-07"), ("bnext18", 2e-5, "1e-05")])
def test_a_network_that_is_not_yet_binary_is_refused(name, temperature, limit):
    model, metadata = exact_network(name, widths=(8, 8))
    model.temperature[...] = temperature
    with pytest.raises(UserError, match=rf"net\.pth are not exactly binary at its temperature {temperature} \(they are below {limit}\)"):
        pack(model, {**metadata, "source": "net.pth"})


def test_an_annealed_sign_without_a_temperature_is_not_binary():
    model, metadata = exact_network(widths=(8, 8))
    del model.temperature
    with pytest.raises(UserError, match="the weights of the network are not exactly binary; train it to the end"):
        pack(model, metadata)


@pytest.mark.parametrize("layer", ["conv", "norm1"])
def test_numbers_that_are_not_finite_are_refused(layer):
    model, metadata = exact_network(widths=(8, 8))
    module = getattr(model.blocks[0].unit3x3, layer)
    variable = module.kernel if layer == "conv" else module.var
    variable[...] = variable[...].at[..., 3].set(jnp.nan)
    with pytest.raises(UserError, match=f"not finite in blocks/0/unit3x3/{layer}"):
        pack(model, metadata)
