"""The eight networks: sizes, initial values, arguments that are refused, no temperature. The golden tests hold what they compute."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models import xnornet
from bnext_jax.models.table import MODELS, abstract_model, create_model
from bnext_jax.nn.binary_conv import BinaryConv, LatentWeight
from bnext_jax.nn.network import split
from bnext_jax.nn.variables import Temperature
from tests.helpers.zoo_small import SMALL

FRAMES = ("bnn18", "xnornet18", "birealnet18", "real_to_binary", "strong_baseline", "reactnet18")


def shape(model, *images):
    graphdef, state = nnx.split(model)
    return jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), nnx.as_pure(state), jax.ShapeDtypeStruct(images, jnp.float32)).shape


def drawn(path, leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape, leaf.dtype)
    return jnp.asarray((path.endswith(("scale", "var"))) + np.random.default_rng(len(path)).uniform(-0.5, 0.5, leaf.shape), leaf.dtype)


@pytest.mark.parametrize("name", SMALL)
def test_any_number_of_classes_and_any_size_that_the_strides_divide(name):
    for classes, stem in ((7, 1), (1000, 4 if name == "pokebnn" else 2)):
        model = abstract_model(name, classes, **SMALL[name])
        if "resolution" not in SMALL[name]:
            side = 3 * model.total_stride
            assert shape(model, 2, side, 2 * side, 3) == (2, classes)
        assert getattr(model.config, "stem_stride", stem) == stem


@pytest.mark.parametrize("name", SMALL)
def test_a_network_without_temperature_has_none_in_its_signature_and_its_variables(name):
    model = abstract_model(name, 10, **SMALL[name])
    assert list(inspect.signature(model).parameters) == (["images", "taps"] if model.has_taps else ["images"])
    assert not nnx.to_flat_state(nnx.state(model, Temperature))
    assert nnx.to_flat_state(nnx.state(model, LatentWeight))


@pytest.mark.parametrize("name", ["real_to_binary", "resnet18"])
def test_taps_are_the_outputs_of_the_eight_blocks_and_change_no_logits(name):
    model = abstract_model(name, 10, widths=(8, 16, 24, 32))
    network, params, rest = split(model, training=False)
    variables = {path: drawn(path, leaf) for path, leaf in {**params, **rest}.items()}
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 16, 3)), jnp.float32)

    def run(variables):
        taps = []
        return network(variables, images)[0], network(variables, images, taps=taps)[0], taps

    plain, tapped, taps = jax.jit(run)(variables)
    assert [tap.shape for tap in taps] == [(2, side, side, width) for side, width in ((16, 8), (8, 16), (4, 24), (2, 32)) for _ in range(2)]
    np.testing.assert_array_equal(plain, tapped)
    classifier = {key: variables[f"classifier/{key}"] for key in ("kernel", "bias")}
    np.testing.assert_allclose(taps[-1].mean((1, 2)) @ classifier["kernel"] + classifier["bias"], plain, rtol=1e-4, atol=1e-4)
    assert np.std(plain) > 0


def test_networks_without_taps_say_so():
    assert {name for name in SMALL if MODELS[name].network.has_taps} == set(FRAMES)
    assert not any(MODELS[name].network.has_taps for name in ("bnext18", "bnext", "convnext", "efficientnet"))


@pytest.mark.parametrize(
    ("name", "draws"),
    [
        ("bnn18", lambda w: abs(w.std() / np.sqrt(2 / (9 * 32)) - 1) < 0.05 and abs(w.mean()) < 0.01),
        ("xnornet18", lambda w: abs(w.std() / np.sqrt(2 / (9 * 16 + 9 * 32)) - 1) < 0.05),
        ("birealnet18", lambda w: w.min() >= 0 and w.max() < 1e-3 and abs(w.mean() - 5e-4) < 2e-5),
        ("reactnet18", lambda w: w.min() >= 0 and w.max() < 1e-3 and abs(w.mean() - 5e-4) < 2e-5),
        # Glorot's normal of Keras: cut at two standard deviations, and scaled back to the wanted one
        ("real_to_binary", lambda w: abs(w.std() / np.sqrt(2 / (9 * 16 + 9 * 32)) - 1) < 0.05 and np.abs(w).max() < 2 * w.std() / 0.85),
    ],
)
def test_latent_weights_start_as_in_the_reference(name, draws):
    model = create_model(name, 10, widths=(16, 32), depth=1, rngs=nnx.Rngs(0))
    kernels = [module.kernel for _, module in nnx.iter_modules(model) if isinstance(module, BinaryConv)]
    (kernel,) = [np.asarray(one[...]) for one in kernels if one.shape == (3, 3, 16, 32)]
    assert draws(kernel)


def test_xnornets_first_block_has_signs_zero_and_one_and_its_order_is_an_argument():
    port, paper = (abstract_model("xnornet18", 10, widths=(8, 16), depth=1, order=order) for order in xnornet.ORDERS)
    assert port.stages[0][0].unit1.conv.input_quantizer.levels == (0, 1)
    assert port.stages[1][0].unit1.conv.input_quantizer.levels == (-1, 1)
    assert paper.stages[0][0].unit1.conv.input_quantizer.levels == (-1, 1)
    assert (port.stages[1][0].unit1.norm.scale.shape, paper.stages[1][0].unit1.norm.scale.shape) == ((16,), (8,))
    shortcuts = [abstract_model("xnornet18", 10, binary_shortcut=binary).stages[1][0].shortcut.conv for binary in (False, True)]
    assert [isinstance(conv, BinaryConv) for conv in shortcuts] == [False, True]


def test_the_paper_s_order_of_xnornet_puts_the_norm_before_the_sign():
    block = xnornet.Block(4, 4, 1, config=xnornet.XnorNetConfig(order="norm_conv"), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
    block = nnx.view(block, use_running_average=True)
    block.unit1.norm.bias.set_value(jnp.asarray([100.0, 100.0, -100.0, -100.0]))  # decides every sign of the first convolution
    signs = jnp.broadcast_to(jnp.asarray([1.0, 1.0, -1.0, -1.0]), x.shape)
    kernel = block.unit1.conv.kernel_quantizer(block.unit1.conv.kernel[...])
    expected = jax.lax.conv_general_dilated(signs, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(block.unit1(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        *((name, {"widths": ()}, "widths () make no network") for name in FRAMES),
        *((name, {"depth": 0}, "depth is 0; it is the number of blocks of each stage, 1 or more") for name in FRAMES),
        *((name, {"stem_stride": 4}, "stem_stride is 4; it is 1 or 2, or None") for name in (*FRAMES, "reactnet_a")),
        ("real_to_binary", {"widths": (16, 36)}, "do not divide by 8, as the gates need: 36"),
        ("strong_baseline", {"resolution": 0}, "resolution is 0; it is the side of an image in pixels"),
        ("xnornet18", {"order": "sign_norm"}, "order is 'sign_norm'; one of: conv_norm, norm_conv"),
        ("reactnet_a", {"widths": (32, 48)}, "widths (32, 48) are not a ReActNet-A"),
        ("bnn18", {"depth": 101}, "depth is 101; a stage has at most 100 blocks"),
        ("pokebnn", {"depths": (10**7, 1, 1, 1)}, "depths is (10000000, 1, 1, 1); a stage has at most 100 blocks"),
        ("meliusnet22", {"blocks": (4, 10**7, 4, 4)}, "a stage has at most 100 blocks"),
        ("strong_baseline", {"resolution": 20, "stem_stride": 2}, "resolution 20 gives maps of 5x5 pixels, which a stage cannot halve"),
        ("reactnet50", {}, "there is no model 'reactnet50'"),
        ("birealnet18", {"shortcut": "real"}, "model 'birealnet18' takes no argument 'shortcut'"),
    ],
)
def test_arguments_that_make_no_network_are_refused_in_one_sentence(name, arguments, message):
    with pytest.raises(UserError) as caught:
        abstract_model(name, 10, **arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_images_that_do_not_fit_are_refused():
    for name in ("birealnet18", "reactnet18", "real_to_binary", "reactnet_a"):
        with pytest.raises(UserError, match="cannot halve a 9x9 map"):
            shape(abstract_model(name, 10, **SMALL[name]), 1, 9, 9, 3)
    assert shape(abstract_model("bnn18", 10, **SMALL["bnn18"]), 1, 9, 9, 3) == (1, 10)  # no pool: a stride of 2 rounds up
    with pytest.raises(UserError, match="was made for images of another size: it scales maps of 16x16, and these images give 32x32"):
        shape(abstract_model("strong_baseline", 10, **SMALL["strong_baseline"]), 1, 32, 32, 3)


def test_every_binary_network_of_the_table_has_a_small_form_in_the_tests():
    families = {MODELS[name].network for name in SMALL}
    teachers = {MODELS[name].network for name in ("convnext", "efficientnet", "resnet")}
    assert {entry.network for entry in MODELS.values()} - teachers - families == {MODELS["bnext"].network, MODELS["bnext18"].network}
