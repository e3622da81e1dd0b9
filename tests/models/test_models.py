"""BNext and BNext18: ablation switches, output shapes, initial values, and arguments that are refused."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.analysis import macs
from bnext_jax.errors import UserError
from bnext_jax.models.bnext18 import BNext18, BNext18Config
from bnext_jax.models.table import MODELS, abstract_model, create_model, takes_temperature
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.bnext_units import BinaryFeedForward, ElmAttention
from bnext_jax.nn.variables import Temperature

WIDTHS = (8, 8, 16, 16)  # three blocks: plain; ELM attention, widening; plain


@pytest.mark.parametrize(("elm", "recoupling"), [(True, True), (True, False), (False, True), (False, False)])
def test_each_ablation_switch_changes_the_network_that_is_built(elm, recoupling):
    model = abstract_model("bnext", 10, widths=WIDTHS, elm_attention=elm, info_recoupling=recoupling)
    kinds = [type(block.unit3x3) for block in model.blocks]
    assert kinds == [BinaryFeedForward, ElmAttention if elm else BinaryFeedForward, BinaryFeedForward]
    units = [u for block in model.blocks for u in (block.unit3x3, *block.units1x1)]
    assert all((u.gate is not None) == (u.scale is not None) == recoupling for u in units)


@pytest.mark.parametrize("name", ["bnext_tiny", "bnext_small", "bnext_middle", "bnext_large"])
def test_every_second_block_has_elm_attention(name):
    blocks = abstract_model(name).blocks
    assert sum(isinstance(block.unit3x3, ElmAttention) for block in blocks) == len(blocks) // 2


@pytest.mark.parametrize(("classes", "pixels", "stride"), [(1000, 64, 2), (10, 32, 1), (7, 16, 1)])
def test_the_number_of_classes_sets_the_logits_and_the_stride_of_the_stem(classes, pixels, stride):
    model = abstract_model("bnext", classes, widths=WIDTHS)
    assert model.stem.conv.stride == stride
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((2, pixels, pixels, 3), jnp.float32)
    assert jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), nnx.as_pure(state), images).shape == (2, classes)


def test_logits_are_float32_for_bfloat16_images():
    graphdef, state = nnx.split(abstract_model("bnext", 10, widths=WIDTHS))
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.bfloat16)
    assert jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), nnx.as_pure(state), images).dtype == jnp.float32


def test_a_network_starts_with_the_initial_values_of_the_paper():
    model = create_model("bnext", 10, widths=(32, 64), rngs=nnx.Rngs(0))
    unit = model.blocks[0].unit3x3
    np.testing.assert_array_equal(unit.scale[...], np.full(32, 0.5))
    np.testing.assert_array_equal(unit.shift[...], np.zeros(32))
    np.testing.assert_array_equal(unit.activation2.slope[...], np.full(32, 0.25))
    np.testing.assert_array_equal(model.stem.prelu.slope[...], np.full(32, 32.0))
    classifier = np.asarray(model.classifier.kernel[...])
    assert 0.9 / 8 < np.abs(classifier).max() <= 1 / 8  # U(-1/sqrt(64), 1/sqrt(64))
    assert float(model.temperature[...]) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bnext_huge", {}, "no model 'bnext_huge'"),
        ("bnext", {"widths": (8, 12)}, "not a BNext"),
        ("bnext", {"widths": (4, 8)}, "not a BNext"),
        ("bnext", {}, "widths"),
        ("bnext18", {"elm_attention": False}, "elm_attention"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(name, arguments, message):
    with pytest.raises(UserError, match=message):
        abstract_model(name, 10, **arguments)


def test_an_input_that_a_stride_cannot_halve_is_refused():
    with pytest.raises(UserError, match="9x9 map"):
        create_model("bnext", 10, widths=WIDTHS, rngs=nnx.Rngs(0))(jnp.zeros((1, 9, 9, 3)))


@pytest.mark.parametrize(("classes", "side"), [(1000, 7), (10, 3)])
def test_bnext18_built_from_its_bare_config_has_the_stem_of_its_number_of_classes(classes, side):
    model = nnx.eval_shape(lambda: BNext18(BNext18Config(), classes, rngs=nnx.Rngs(0)))
    assert model.conv.kernel.shape[:2] == (side, side)
    assert model.config.stem_stride == (2 if classes == 1000 else 1)


def test_exactly_the_networks_with_a_temperature_take_one_in_their_call():
    first = {entry.network: name for name, entry in reversed(MODELS.items()) if name not in ("bnext", "meliusnet")}  # they need arguments
    assert len(first) == len({entry.network for entry in MODELS.values()})
    takers = {"bnext_tiny", "bnext_small", "bnext_middle", "bnext_large", "bnext", "bnext18"}
    assert {name for name in MODELS if takes_temperature(name)} == takers
    for network, name in first.items():
        taken = ["temperature"] if name in takers else []
        taps = ["taps"] if network.has_taps else []
        assert list(inspect.signature(network.__call__).parameters) == ["self", "images", *taken, *taps]
        _, state = nnx.split(abstract_model(name, 10))
        found = [path for path, variable in nnx.to_flat_state(state) if isinstance(variable, Temperature)]
        assert found == [(part,) for part in taken]


def test_the_window_of_the_straight_through_estimator_is_an_argument_of_bnext():
    def windows(**more):
        model = abstract_model("bnext", 10, widths=(8, 8, 16), **more)
        return {module.input_quantizer.clip_value for _, module in nnx.iter_modules(model) if isinstance(module, BinaryConv)}

    assert (windows(), windows(ste_window=1.0)) == ({1.5}, {1.0})
    with pytest.raises(UserError, match="ste_window is 0"):
        windows(ste_window=0.0)


@pytest.mark.parametrize(("name", "arguments"), [("birealnet18", {}), ("meliusnet", {"blocks": (1, 1), "transitions": (16,)})])
def test_a_stem_without_its_max_pool_gives_maps_of_half_the_image(name, arguments):
    stem = {"stem": "grouped"} if name == "meliusnet" else {"stem_stride": 2}
    sides = {}
    for pool in (True, False):
        model = abstract_model(name, 10, **arguments, **stem, stem_pool=pool)
        binary = [layer for layer in macs.layers(model, 64, 64) if layer.kind == "binary"]
        sides[pool], sides[f"{pool} stride"] = binary[0].output[0], model.total_stride
    deeper = 2 if name == "meliusnet" else 8
    assert sides == {True: 16, "True stride": 4 * deeper, False: 32, "False stride": 2 * deeper}
