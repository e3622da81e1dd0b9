"""The quantized edition of a trained network: converted, trained further, counted. test_golden_quantized tests its arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from bnext_jax.io.load import load
from bnext_jax.io.torch import torch_files
from bnext_jax.nn.kbit import Quantizer
from bnext_jax.nn.network import split
from tests.helpers.commands import SMOKE, refused
from tests.helpers.torch_tools import WIDTHS, drawn, save_training

BITS = {"gate_bits": 4, "stem_bits": 8, "classifier_bits": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A PyTorch file of a float network."""
    return save_training(tmp_path_factory.mktemp("torch") / "float.pth.tar", drawn())


@pytest.fixture
def evaluate(run, digits):
    """evaluate(path, words...): the result of `evaluate` on the digits."""

    def call(path, *words):
        code, result, error = run("evaluate", f"--checkpoint={path}", SMOKE, f"--config.data.directory={digits}", *words)
        assert code == 0, error
        return result

    return call


def test_a_float_network_is_converted_with_its_tensors_and_the_clip_limits(run, trained, evaluate, tmp_path):
    quantized, file = tmp_path / "quantized", tmp_path / "quantized.safetensors"
    code, result, _ = run("convert", f"--source={trained}", f"--output={quantized}", "--gate_bits=4")
    assert code == 0 and result["arguments"] == {"widths": list(WIDTHS), **BITS}
    assert run("convert", f"--source={quantized}", f"--output={file}")[0] == 0
    found, before = torch_files.read(file).tensors, drawn()
    added = found.keys() - before.keys()
    assert all(np.array_equal(found[name], value) for name, value in before.items())
    # Two pairs of clip limits, for weights and input, for each of: the stem, the classifier, and the two layers of each gate.
    # The three blocks have 2, 3 and 2 units, with one gate each.
    pairs = [name for name in added if name != "fc.scale"]
    assert len(pairs) == 2 * (2 + 2 * 7)
    for name in pairs:
        np.testing.assert_array_equal(np.asarray(found[name]).reshape(-1), np.array([-25, 25] if name.startswith("fc.") else [-1000, 1000]))

    directly = evaluate(trained, "--gate_bits=4")
    assert evaluate(quantized) == evaluate(quantized, "--gate_bits=4") == evaluate(file) == directly
    plain = evaluate(trained)
    assert directly["arguments"] == {"widths": list(WIDTHS), **BITS} and plain["arguments"] == {"widths": list(WIDTHS)}
    assert 1e-6 < abs(directly["loss"] - plain["loss"]) < 0.1 * plain["loss"]
    refused(run("evaluate", f"--checkpoint={quantized}", SMOKE, "--gate_bits=8"), "bnext has gate_bits 4 already; leave --gate_bits out")


def test_a_channel_of_zeros_stays_zero():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32).at[:, 1].set(0)
    found = np.asarray(Quantizer(4, (0,)).kernel(kernel))
    assert np.isfinite(found).all() and not found[:, 1].any() and found[:, 0].any()


def test_the_size_and_cost_of_a_trained_networks_quantized_edition(run, trained):
    plain, quantized = (run("count", f"--checkpoint={trained}", "--resolution=16", *more)[1]["bnext"] for more in ((), ("--gate_bits=4",)))
    assert plain["edition"] == quantized["edition"] and quantized["macs"] == plain["edition"]["macs"]
    stem, classifier, gates = 27 * 8, 16 * 10, 5 * 2 * 8 * 1 + 2 * 2 * 16 * 2  # five gates of 8 channels, two of 16
    assert plain["bytes"] - quantized["bytes"] == 3 * (stem + classifier) + (4 - 0.5) * gates


def test_a_float_network_is_trained_further_with_quantized_layers(run, trained, digits, tmp_path):
    more = [f"--config.model.{name}={bits}" for name, bits in BITS.items()]
    code, _, error = run(
        "train", SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}", f"--config.init={trained}",
        f"--config.model.widths={WIDTHS}", "--config.stop_at_step=2", "--config.tensorboard=False",
        "--config.optimizer.decay_rest=0", "--config.optimizer.decay_weights=0", *more,
    )  # fmt: skip
    assert code == 0, error
    model, metadata = load(tmp_path / "run")
    assert metadata["model"]["arguments"] == {"widths": list(WIDTHS), **BITS}
    _, params, rest = split(model, training=False)
    _, before, _ = split(load(trained, gate_bits=4)[0], training=False)
    for layer in ("stem/conv", "classifier", "blocks/1/unit3x3/gate/reduce", "blocks/1/unit3x3/gate/expand"):  # they get a gradient
        moved = np.abs(np.asarray(params[f"{layer}/kernel"]) - np.asarray(before[f"{layer}/kernel"]))
        assert 0 < moved.max() < 0.01, layer
    np.testing.assert_array_equal(rest["classifier/quantizer/weight_clip"], [-25, 25])
