"""The stages of a training that makes a network binary: forward and gradients of each form, and what says that it is not binary yet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.analysis import macs
from bnext_jax.analysis.count import measure
from bnext_jax.errors import UserError
from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.load import load
from bnext_jax.io.save import described, save
from bnext_jax.models.table import abstract_model, create_model
from bnext_jax.nn.binary_conv import BinaryConv, LatentWeight
from bnext_jax.nn.network import split
from bnext_jax.nn.quantizers import ApproxSign, SteSign
from bnext_jax.nn.real_rules import RealWeight, Tanh
from bnext_jax.nn.weight_quantizers import SteWeightSign
from bnext_jax.packed.pack import pack
from bnext_jax.plot.features import convolutions, kind_of_weights
from bnext_jax.training.watch import BinaryWatch, is_binary
from tests.helpers.commands import refused
from tests.helpers.zoo_small import SMALL, logits, varied

REAL, TANH = {"binary_weights": False}, {"binary_weights": False, "activation": "tanh"}
STAGED = [name for name in SMALL if name not in ("meliusnet", "pokebnn")]


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def drawn(*shapes):
    keys = jax.random.split(jax.random.key(3), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("rule", ["sign", "square", "tanh"])
def test_real_weights_are_multiplied_as_they_are_and_get_the_plain_gradient(lowering, rule):
    x, shift, cotangent = drawn((2, 6, 6, 3), (3,), (2, 6, 6, 4))
    quantizer = {"sign": SteSign(clip_value=1, at_zero=1), "square": ApproxSign(), "tanh": Tanh()}[rule]
    layer = BinaryConv(3, 4, 3, input_quantizer=quantizer, kernel_quantizer=RealWeight(), rngs=nnx.Rngs(0))
    (w,) = drawn((3, 3, 3, 4))  # many beyond 1
    layer.kernel.set_value(w)
    graphdef, state = nnx.split(layer)

    def forward(w, x, shift):
        return nnx.merge(graphdef, nnx.State({"kernel": state["kernel"].replace(w)}))(x, shift=shift)

    with jax.default_matmul_precision("highest"):
        y, pullback = jax.vjp(forward, w, x, shift)
        signed = jnp.tanh(x + shift) if rule == "tanh" else jnp.sign(x + shift)
        expected, plain = jax.vjp(conv, signed, w)
        np.testing.assert_allclose(y, expected, atol=1e-5)
        of_signs, of_w = plain(cotangent)
        found_w, found_x, found_shift = pullback(cotangent)
    t = np.asarray(x + shift)
    slope = {"sign": np.abs(t) <= 1, "square": np.maximum(2 - 2 * np.abs(t), 0), "tanh": 1 / np.cosh(t) ** 2}[rule]
    np.testing.assert_allclose(found_w, of_w, atol=1e-5)
    np.testing.assert_allclose(found_x, of_signs * slope, atol=1e-5)
    np.testing.assert_allclose(found_shift, (of_signs * slope).sum((0, 1, 2)), atol=1e-4)


def test_the_gradient_of_real_weights_is_that_of_finite_differences():
    with jax.enable_x64(True):
        x, w, g = (a.astype(jnp.float64) for a in drawn((1, 4, 4, 2), (3, 3, 2, 2), (1, 4, 4, 2)))
        layer = BinaryConv(2, 2, 3, input_quantizer=Tanh(), kernel_quantizer=RealWeight(), rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(layer)

        def loss(w, x):
            return (nnx.merge(graphdef, nnx.State({"kernel": state["kernel"].replace(w)}))(x) * g).sum()

        for number, gradient in enumerate(jax.grad(loss, argnums=(0, 1))(w, x)):
            for place in ((0, 1, 1, 0), (0, 2, 0, 1)):
                step = jnp.zeros_like((w, x)[number]).at[place].set(1e-5)
                up, down = (loss(*((a + s * step if i == number else a) for i, a in enumerate((w, x)))) for s in (1, -1))
                assert float(gradient[place]) == pytest.approx(float(up - down) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", STAGED)
def test_all_stages_of_a_network_have_the_same_variables(name):
    binary, *stages = (abstract_model(name, 10, **SMALL[name], **stage) for stage in ({}, REAL, TANH))
    network, params, rest = split(binary, training=True)
    for model in stages:
        other, real, others = split(model, training=True)
        assert {path: v.shape for path, v in real.items()} == {path: v.shape for path, v in params.items()}
        assert rest.keys() == others.keys() and network.decay_groups == other.decay_groups
        assert network.latent and not other.latent and not other.bounds
        assert not nnx.to_flat_state(nnx.state(model, LatentWeight))


@pytest.mark.parametrize("stage", [REAL, TANH], ids=["sign", "tanh"])
@pytest.mark.parametrize("name", STAGED)
def test_every_convolution_of_a_stage_has_the_stages_rules(name, stage):
    """XNOR-Net's first block too, whose signs are 0 and 1."""
    model, binary = (abstract_model(name, 10, **SMALL[name], **more) for more in (stage, {}))
    pairs = [
        (one, other)
        for (_, one), (_, other) in zip(nnx.iter_modules(model), nnx.iter_modules(binary), strict=True)
        if isinstance(one, BinaryConv)
    ]
    assert len(pairs) >= 3
    for one, other in pairs:
        assert one.kernel_quantizer == RealWeight() and one.padding == other.padding
        assert one.input_quantizer == (Tanh() if "activation" in stage else other.input_quantizer)


def test_a_block_of_reactnet_with_real_weights_computes_its_formula():
    model = varied("reactnet18", **REAL)
    block, (x,) = model.stages[0][0], drawn((2, 5, 5, 16))
    unit, act = block.unit, block.activation
    with jax.default_matmul_precision("highest"):
        o = conv(jnp.sign(x + unit.shift[...]), unit.conv.kernel[...])
        n = unit.norm
        o = (o - n.mean[...]) / jnp.sqrt(n.var[...] + 1e-5) * n.scale[...] + n.bias[...] + x + act.before[...]
        expected = jnp.where(o > 0, o, o * act.prelu.slope[...]) + act.after[...]
        np.testing.assert_allclose(block(x), expected, rtol=1e-4, atol=1e-4)


def test_a_half_block_of_real_to_binary_with_tanh_computes_its_formula():
    model = varied("real_to_binary", **TANH)
    half, (x,) = model.stages[0][0].a, drawn((2, 5, 5, 16))
    with jax.default_matmul_precision("highest"):
        n = half.norm
        z = (x - n.mean[...]) / jnp.sqrt(n.var[...] + 1e-3) * n.scale[...] + n.bias[...]
        hidden = jnp.maximum(z.mean((1, 2)) @ half.scale.reduce.kernel[...], 0)
        c = conv(jnp.tanh(z), half.conv.kernel[...]) / (1 + jnp.exp(-(hidden @ half.scale.expand.kernel[...])))[:, None, None]
        expected = jnp.where(c > 0, c, c * half.prelu.slope[...]) + x
        np.testing.assert_allclose(half(x), expected, rtol=1e-4, atol=1e-4)


def test_real_weights_start_as_in_the_reference():
    def kernel(name):
        model = create_model(name, 10, widths=(16, 32), depth=1, rngs=nnx.Rngs(0), **REAL)
        found = [module.kernel for _, module in nnx.iter_modules(model) if isinstance(module, BinaryConv)]
        return next(np.asarray(one[...]) for one in found if one.shape == (3, 3, 16, 32))

    for name in ("reactnet18", "birealnet18"):
        w, limit = kernel(name), 1 / np.sqrt(9 * 16)
        assert np.abs(w).max() <= limit and abs(w.std() / (limit / np.sqrt(3)) - 1) < 0.03 and abs(w.mean()) < 0.003
    assert abs(kernel("real_to_binary").std() / np.sqrt(2 / (9 * 16 + 9 * 32)) - 1) < 0.05


@pytest.mark.parametrize("stage", [REAL, TANH], ids=["sign", "tanh"])
def test_a_stage_with_real_weights_is_counted_as_float(stage):
    kinds, sums = {}, []
    for more in ({}, stage):
        model = abstract_model("reactnet_a", 10, **SMALL["reactnet_a"], **more)
        found = measure("reactnet_a", model, (16, 16))
        kinds.update({layer.kind: None for layer in macs.layers(model, 16, 16)})
        sums.append(found)
    binary, real = sums
    assert real["macs"] == {"binary": 0, "int4": 0, "int8": 0, "float": binary["macs"]["binary"] + binary["macs"]["float"]}
    assert real["degree"] == 0 and real["binary_weights"] == 0 and "edition" not in real and list(kinds) == ["float", "binary"]
    assert real["bytes"] == real["bytes_float32"] == binary["bytes_float32"]


def test_a_network_with_real_weights_says_everywhere_that_it_is_not_binary():
    model = varied("reactnet18", **REAL)
    network, params, rest = split(model, training=True)
    variables = {**params, **rest}
    assert network.has_exact_signs(variables, None) is None and not is_binary(network, variables, None)
    assert BinaryWatch(network, params).look(variables, None, layers=True) == {}
    assert len(convolutions(model)) == 3 and kind_of_weights(model) == "real"  # its inputs are binary maps
    assert not convolutions(varied("reactnet18", **TANH)) and kind_of_weights(varied("reactnet18")) == "latent"


@pytest.mark.parametrize("name", ["reactnet18", "real_to_binary"])
def test_packing_a_network_with_real_weights_is_refused_in_one_sentence(name):
    model = varied(name, **REAL)
    with pytest.raises(UserError, match=r"the weights of run1 are real: .* without that argument and with --config.init=run1, then pack"):
        pack(model, {**without_run(model, described(model)), "source": "run1"})


@pytest.mark.parametrize("stage", [REAL, TANH], ids=["sign", "tanh"])
@pytest.mark.parametrize("name", ["reactnet18", "reactnet_a", "real_to_binary"])
def test_a_file_of_a_stage_says_which_stage_it_is(tmp_path, name, stage):
    model = varied(name, **stage)
    for file in ("run", "a.safetensors"):
        save(tmp_path / file, model)
        found, metadata = load(tmp_path / file)
        assert {key: metadata["model"]["arguments"][key] for key in stage} == stage
        np.testing.assert_array_equal(logits(found), logits(model))
    with pytest.raises(UserError, match=r"real \(binary_weights=False\), and .*a.pth has no place to say so; write NAME.safetensors"):
        save(tmp_path / "a.pth", model)
    assert not (tmp_path / "a.pth").exists()


def test_commands_take_a_stage_and_pack_refuses_it(run, tmp_path):
    save(tmp_path / "run", varied("reactnet18", **REAL))
    refused(run("pack", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'a.bnext'}"), f"the weights of {tmp_path / 'run'} are")
    code, result, _ = run("count", f"--checkpoint={tmp_path / 'run'}", "--resolution=16")
    assert code == 0 and result["reactnet18"]["macs"]["binary"] == 0
    words = ("count", "--model=reactnet18", "--classes=10", "--resolution=16")
    assert run(*words, "--arguments={'binary_weights': False, 'widths': (16, 32, 64), 'depth': 1}")[1] == result
    refused(run(*words, "--arguments={'activation': 'tanh'}"), "activation 'tanh' makes a real-valued network; say binary_weights=False")
    refused(run(*words, "--arguments={'activation': 'relu'}"), "activation is 'relu'; one of: sign, tanh")


def test_a_convolution_of_real_inputs_has_real_weights():
    with pytest.raises(UserError, match=r"a convolution of real inputs, Tanh\(\), has real weights: its kernel_quantizer is RealWeight"):
        BinaryConv(2, 2, 3, input_quantizer=Tanh(), kernel_quantizer=SteWeightSign(), rngs=nnx.Rngs(0))
