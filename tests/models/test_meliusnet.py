"""MeliusNet: counts of the published networks, the two reference implementations, the channel shuffle, arguments that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.analysis.count import measure
from bnext_jax.errors import UserError
from bnext_jax.models.meliusnet import Block, MeliusNetConfig, Stem, Transition
from bnext_jax.models.table import abstract_model, model_config

# Blocks of each stage, channels after each stage. The stem has 64 channels, and a block adds 64.
STAGES = {
    "meliusnet22": ((4, 5, 4, 4), (160, 224, 256)),
    "meliusnet23": ((2, 4, 6, 6), (128, 192, 288)),
    "meliusnet29": ((4, 6, 8, 6), (128, 192, 256)),
    "meliusnet42": ((5, 8, 14, 10), (160, 256, 416)),
    "meliusnet59": ((6, 12, 24, 12), (192, 320, 544)),
    "meliusnet_a": ((4, 5, 5, 6), (160, 256, 288)),
    "meliusnet_b": ((4, 6, 8, 6), (160, 224, 320)),
    "meliusnet_c": ((3, 5, 10, 6), (128, 192, 288)),
}
GROUPS = {"meliusnet23": 8, "meliusnet_a": 4, "meliusnet_b": 2, "meliusnet_c": 4}
# At 224 pixels and 1000 classes: parameters, binary weights, binary MACs, MACs of the transitions and of the classifier
COUNTS = {
    "meliusnet22": (6_944_584, 6_119_424, 4_624_220_160, 67_235_840, 512_000),
    "meliusnet29": (11_328_328, 10_321_920, 5_469_585_408, 60_211_200, 640_000),
    "meliusnet42": (26_825_544, 24_956_928, 9_692_798_976, 105_369_600, 1_056_000),
    "meliusnet59": (55_555_336, 52_641_792, 18_316_247_040, 177_121_280, 1_312_000),
}
STEM_MACS = {"grouped": 112 * 112 * 9 * (3 * 32 + 8 * 32 + 4 * 64), "imagenet": 112 * 112 * 49 * 3 * 64}
SMALL = {"blocks": (1, 1, 1), "transitions": (16, 16), "growth": 16, "stem_width": 16}


def products(name):
    """(binary weights, binary MACs, MACs of the transitions, channels at the end) as products of shapes."""
    weights, binary, transitions, side, channels = 0, 0, 0, 56, 64
    blocks, widths = STAGES[name]
    for depth, width in zip(blocks, (*widths, None), strict=True):
        for _ in range(depth):
            own = 9 * channels * 64 + 9 * (channels + 64) * 64
            weights, binary, channels = weights + own, binary + side * side * own, channels + 64
        if width:
            side //= 2
            transitions += side * side * channels * width // GROUPS.get(name, 1)
            channels = width
    return weights, binary, transitions, channels


@pytest.mark.parametrize("name", STAGES)
def test_published_networks_are_counted_exactly(name):
    found = measure(name, abstract_model(name), (224, 224), per_layer=True)
    macs = {}
    for layer in found["layers"]:
        part = layer["name"].split("/")[0]
        macs[part] = macs.get(part, 0) + layer["macs"]
    weights, binary, transitions, channels = products(name)
    assert (found["binary_weights"], macs["stages"], macs["transitions"], macs["classifier"]) == (
        weights, binary, transitions, 1000 * channels,
    )  # fmt: skip
    assert macs["stem"] == STEM_MACS["grouped"] == 68_640_768 and found["macs"]["binary"] == binary
    if name in COUNTS:
        assert (found["parameters"], weights, binary, transitions, 1000 * channels) == COUNTS[name]


@pytest.mark.parametrize("name", ["meliusnet22", "meliusnet29"])
def test_the_7x7_stem_is_counted_exactly(name):
    found = measure(name, abstract_model(name, stem="imagenet"), (224, 224))
    parameters, _, binary, transitions, classifier = COUNTS[name]
    assert found["parameters"] == parameters + 3_808 == {"meliusnet22": 6_948_392, "meliusnet29": 11_332_136}[name]
    assert found["macs"]["binary"] == binary and STEM_MACS["imagenet"] == 118_013_952
    assert found["macs"]["float"] == 118_013_952 + transitions + classifier


def test_the_stem_and_the_padding_follow_the_classes_and_the_reference():
    assert model_config("meliusnet22").stem == "grouped" and model_config("meliusnet22", 10).stem == "cifar"
    assert [model_config("meliusnet22", variant=variant).pad_value for variant in ("bitorch", "larq")] == [-1, 0]
    assert model_config("meliusnet22", pad_value=0).pad_value == 0
    kernel = abstract_model("meliusnet22", 10).stem.convs[0].kernel
    assert kernel.shape == (3, 3, 3, 64)


@pytest.mark.parametrize(("stem", "stride"), [("grouped", 16), ("imagenet", 16), ("cifar", 4)])
@pytest.mark.parametrize("variant", ["bitorch", "larq"])
def test_any_number_of_stages_with_any_stem_computes_logits_of_any_size(variant, stem, stride):
    graphdef, state = nnx.split(abstract_model("meliusnet", 7, **SMALL, stem=stem, variant=variant))
    for height, width in ((stride, stride), (2 * stride + 1, 3 * stride)):
        images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.bfloat16)
        logits = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), nnx.as_pure(state), images)
        assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def test_images_smaller_than_the_stride_are_refused():
    model = abstract_model("meliusnet", 10, **SMALL)
    with pytest.raises(UserError, match=r"images of 32x3 are too small for this MeliusNet, which downsamples by 4; use 4 pixels or more"):
        model(jnp.zeros((1, 32, 3, 3)))


@pytest.mark.parametrize(("variant", "kept"), [("bitorch", 0.1), ("larq", 0.9)])
def test_the_stem_of_bitorch_keeps_a_tenth_of_its_running_statistics(variant, kept):
    config = MeliusNetConfig((1,), (), stem="imagenet", stem_width=8, variant=variant).resolved(10)
    stem = Stem(config, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3), dtype=np.float32)
    convolved = np.asarray(stem.convs[0](jnp.asarray(images)))
    stem(jnp.asarray(images))
    mean, var = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stem.norms[0].mean[...], (1 - kept) * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stem.norms[0].var[...], kept + (1 - kept) * var, rtol=1e-4)


@pytest.mark.parametrize(("shuffled", "groups"), [(16, 2), (16, 4), (16, 8), (4, 1)])
def test_the_convolution_of_a_transition_reads_shuffled_channels(shuffled, groups):
    inputs, features = 48, 16
    config = MeliusNetConfig((1,), (), shuffle_groups=shuffled, conv_groups=groups, stem="cifar").resolved(10)
    transition = nnx.view(Transition(inputs, features, config, rngs=nnx.Rngs(0)), use_running_average=True)
    x = np.random.default_rng(1).standard_normal((2, 4, 4, inputs))
    pooled = np.maximum(x.reshape(2, 2, 2, 2, 2, inputs).max((2, 4)), 0) / np.sqrt(1 + 1e-5)
    mixed = np.empty_like(pooled)
    for i in range(shuffled):
        for j in range(inputs // shuffled):
            mixed[..., shuffled * j + i] = pooled[..., inputs // shuffled * i + j]
    kernel = np.asarray(transition.conv.kernel[...], np.float64)[0, 0]  # [inputs / groups, features]
    part, out = inputs // groups, features // groups
    expected = [mixed[..., part * g : part * (g + 1)] @ kernel[:, out * g : out * (g + 1)] for g in range(groups)]
    np.testing.assert_allclose(transition(jnp.asarray(x, jnp.float32)), np.concatenate(expected, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("variant", "side"), [("bitorch", 3), ("larq", 4)])
def test_the_pool_of_a_transition_rounds_odd_sides_down_in_bitorch_and_up_in_larq(variant, side):
    config = MeliusNetConfig((1,), (), stem="cifar", variant=variant).resolved(10)
    out = nnx.eval_shape(lambda: Transition(4, 4, config, rngs=nnx.Rngs(0))(jnp.ones((1, 7, 7, 4))))
    assert out.shape == (1, side, side, 4)


@pytest.mark.parametrize("variant", ["bitorch", "larq"])
def test_initial_weights_are_glorot_normal_and_only_larqs_are_cut_at_two_sigma(variant):
    block = Block(64, MeliusNetConfig((1,), (), variant=variant).resolved(10), rngs=nnx.Rngs(0))
    kernel = np.asarray(block.improvement_conv.kernel[...])
    sigma = np.sqrt(2 / (9 * 128 + 9 * 64))
    assert kernel.shape == (3, 3, 128, 64) and abs(kernel.std() / sigma - 1) < 0.01
    assert (np.abs(kernel).max() < 2.3 * sigma) == (variant == "larq")  # Keras divides sigma by 0.8796 before the cut


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs blocks, transitions"),
        ({"blocks": (1, 1), "transitions": (16, 16)}, r"one transition fewer than stages; got blocks \(1, 1\), transitions \(16, 16\)"),
        ({"blocks": (), "transitions": ()}, "one transition fewer than stages"),
        ({"blocks": (1, 0), "transitions": (16,)}, r"blocks is \(1, 0\); give positive whole numbers"),
        ({"blocks": 3, "transitions": (16,)}, "blocks is 3; "),
        ({"blocks": (1, 1), "transitions": (1.5,)}, r"transitions is \(1.5,\); "),
        ({**SMALL, "growth": 0}, "growth is 0; give positive whole numbers"),
        ({**SMALL, "stem": "7x7"}, "stem is '7x7'; one of: None, grouped, imagenet, cifar"),
        ({**SMALL, "variant": "keras"}, "variant is 'keras'; one of: bitorch, larq"),
        ({**SMALL, "pad_value": 2}, "pad_value is 2; one of: None, -1, 0, 1"),
        ({**SMALL, "stem": "grouped", "stem_width": 24}, "stem_width is 24; the grouped stem needs a multiple of 16"),
        ({**SMALL, "shuffle_groups": 3}, "shuffle_groups 3 and conv_groups 1 do not divide the channels of a transition from 32 to 16"),
        ({**SMALL, "transitions": (16, 17), "conv_groups": 2}, "conv_groups 2 do not divide the channels of a transition from 32 to 17"),
    ],
)
def test_arguments_that_make_no_meliusnet_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        abstract_model("meliusnet", 10, **arguments)
