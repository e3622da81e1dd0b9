"""`convert` and `evaluate` on PyTorch files: the converted tensors, the computed results, the refused files."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image
from safetensors import safe_open

from bnext_jax import cli as program
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io import checkpoint
from bnext_jax.io.load import load
from bnext_jax.io.names.recognise import timm_names
from bnext_jax.io.save import save
from bnext_jax.io.torch import torch_files
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from tests.helpers.commands import ROOT, SMOKE, command, refused, result_of
from tests.helpers.torch_tools import EPOCH, TEMPERATURE, WIDTHS, drawn, save_bare, save_training


@pytest.fixture(scope="module")
def half_trained(tmp_path_factory):
    """A PyTorch training checkpoint at epoch 10. Its binary weights are still fractional."""
    return save_training(tmp_path_factory.mktemp("torch") / "half.pth.tar", drawn())


@pytest.mark.parametrize("suffix", [".pth.tar", ".pth", ".safetensors"])
def test_converting_there_and_back_changes_nothing_and_pytorch_loads_it(run, half_trained, tmp_path, suffix):
    code, result, _ = run("convert", f"--source={half_trained}", f"--output={tmp_path / 'flax'}", "--model=bnext")
    assert code == 0
    assert (result["model"], result["num_classes"], result["arguments"]) == ("bnext", 10, {"widths": list(WIDTHS)})
    assert (result["epoch"], result["temperature"]) == (EPOCH, float(np.float32(TEMPERATURE)))
    back = tmp_path / f"back{suffix}"
    assert run("convert", f"--source={tmp_path / 'flax'}", f"--output={back}")[0] == 0
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded = load_file(back)
    else:
        loaded = torch.load(back, weights_only=True)
    if suffix == ".pth.tar":
        assert (loaded["epoch"], loaded["temp"]) == (EPOCH, float(np.float32(TEMPERATURE)))
        loaded = loaded["state_dict"]
    tensors = drawn()
    assert set(loaded) == set(tensors) and (suffix == ".safetensors" or list(loaded) == list(tensors))  # safetensors sorts the names
    for name, value in tensors.items():
        expected = torch.from_numpy(np.array(value))
        assert loaded[name].dtype == expected.dtype and torch.equal(loaded[name], expected)
    again = run("convert", f"--source={back}", f"--output={tmp_path / 'again'}")[1]
    assert again["temperature"] == result["temperature"] and again["epoch"] == (0 if suffix == ".pth" else EPOCH)


def test_a_half_trained_file_is_evaluated_with_its_fractional_weights(run, half_trained, digits, tmp_path):
    """At temperature T the weights are clip(w / T, -1, 1). A file with these weights and temperature 1 must give the same loss."""

    def evaluate(path):
        code, result, error = run("evaluate", f"--checkpoint={path}", SMOKE, f"--config.data.directory={digits}")
        assert code == 0, error
        return result

    clipped = drawn(1.0)
    for name in clipped:
        if name.endswith("binary_conv.weight"):
            clipped[name] = np.clip(clipped[name] / np.float32(TEMPERATURE), -1, 1)
    signs = drawn(1e-9)
    found = evaluate(half_trained)
    assert found["examples"] == 360 and found["binary"] is False and found["temperature"] == float(np.float32(TEMPERATURE))
    assert found["loss"] == pytest.approx(evaluate(save_bare(tmp_path / "clipped.pth", clipped))["loss"], rel=1e-5)
    exact = evaluate(save_bare(tmp_path / "signs.pth", signs))
    assert exact["binary"] is True and abs(exact["loss"] - found["loss"]) > 1e-2
    run("convert", f"--source={half_trained}", f"--output={tmp_path / 'flax'}")
    assert evaluate(tmp_path / "flax") == found


def test_evaluating_a_file_that_names_no_dataset_asks_for_a_config(run, half_trained, digits):
    refused(run("evaluate", f"--checkpoint={half_trained}"), "does not name its dataset; add --config=configs/NAME.py")


def test_lite0_converts_from_the_packages_tensor_names_and_keeps_its_values(run, tmp_path):
    source, output = roster.packaged("tf_efficientnet_lite0"), tmp_path / "lite0.safetensors"
    code, result, _ = run("convert", f"--source={source}", f"--output={output}")
    assert code == 0 and (result["model"], result["parameters"]) == ("tf_efficientnet_lite0", 4_652_008)
    from safetensors.numpy import load_file

    theirs, ours = torch.load(source, weights_only=True), load_file(output)
    for timm, original in (("conv_stem", "_conv_stem"), ("blocks.1.0.conv_pwl", "_blocks.1._project_conv"), ("classifier", "_fc")):
        np.testing.assert_array_equal(ours[f"{timm}.weight"], theirs[f"{original}.weight"].numpy())


def broken(**changes):
    """The tensors of drawn() with some replaced. None removes a tensor."""
    tensors = drawn()
    for name, value in changes.items():
        tensors[name] = value
    return {name: value for name, value in tensors.items() if value is not None}


def test_every_missing_extra_and_wrongly_shaped_tensor_is_listed(run, tmp_path):
    tensors = broken(**{"fc.bias": None, "feature.1.FFN.scale": None, "fc.extra": np.ones(3), "prelu.weight": np.ones(5)})
    outcome = run("convert", f"--source={save_bare(tmp_path / 'a.pth', tensors)}", f"--output={tmp_path / 'flax'}")
    refused(
        outcome, "looks like bnext with 10 classes", "in 4 places", "missing fc.bias", "missing feature.1.FFN.scale", "unknown fc.extra",
        "prelu.weight has shape (5,), the network needs (16,)",
    )  # fmt: skip
    assert not (tmp_path / "flax").exists()


def test_differing_temperatures_inside_one_file_are_refused(run, tmp_path):
    name = next(name for name in drawn() if name.endswith("binary_conv.temperature"))
    tensors = broken(**{name: np.array([0.5], np.float32)})
    outcome = run("evaluate", f"--checkpoint={save_bare(tmp_path / 'a.pth', tensors)}", SMOKE)
    refused(outcome, "the temperatures differ: [0.348", "0.5]")


def test_the_wrong_model_is_refused_and_the_right_one_proposed(run, half_trained, tmp_path):
    words = ["convert", f"--source={half_trained}", f"--output={tmp_path / 'flax'}"]
    refused(run(*words, "--model=bnext_large"), "holds bnext (10 classes), not bnext_large; use --model=bnext")
    refused(run(*words, "--gate_bits=5"), "--gate_bits is 5", "4 or 8")
    assert not (tmp_path / "flax").exists()


def test_our_files_keep_the_arguments_that_shapes_do_not_show(run, tmp_path):
    arguments = {"widths": list(WIDTHS), "stem_stride": 2}
    _, params, batch_stats = split(create_model("bnext", 10, rngs=nnx.Rngs(0), **arguments), training=False)
    metadata = {"model": {"name": "bnext", "num_classes": 10, "arguments": arguments}, "step": 3, "epoch": 1, "temperature": 1.0}
    checkpoint.save_network(tmp_path / "ours", params, batch_stats, metadata)
    for suffix in (".safetensors", ".pth.tar"):
        assert run("convert", f"--source={tmp_path / 'ours'}", f"--output={tmp_path / f'a{suffix}'}")[0] == 0
        assert load(tmp_path / f"a{suffix}")[1]["model"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (("bnext", 10, {"widths": "wide"}), "describes an impossible network|looks like bnext"),
        (("bnext", -1, {"widths": [8, 8]}), "describes an impossible network|looks like bnext"),
        (("resnet51", 10, {}), "there is no model 'resnet51'"),
        (("bnext", 10, {"widths": [8, 8], "depth": 3}), "model 'bnext' takes no argument 'depth'; it takes: widths"),
    ],
)
def test_a_file_that_describes_an_impossible_network_is_refused(tmp_path, described, message):
    written = dict(zip(("name", "num_classes", "arguments"), described, strict=True))
    torch_files.write(tmp_path / "a.safetensors", drawn(), epoch=0, temperature=None, described=written)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "a.safetensors")


def test_numbers_that_are_not_finite_are_reported_with_their_tensor(run, tmp_path):
    tensors = broken(**{"fc.bias": np.full(10, np.nan, np.float32)})
    refused(run("count", f"--checkpoint={save_bare(tmp_path / 'a.pth', tensors)}"), "numbers that are not finite in fc.bias")
    with pytest.raises(UserError, match="computes numbers that are not finite"):
        program._json({"loss": float("inf")})


def test_an_unknown_efficientnet_file_gives_a_warning_about_its_padding(tmp_path, caplog):
    load(roster.packaged("tf_efficientnet_lite0"))
    assert "pad differently" not in caplog.text
    renamed = timm_names(torch_files.read(roster.packaged("tf_efficientnet_lite0")).tensors)
    load(save_bare(tmp_path / "a.pth", renamed))
    assert "pad differently; " in caplog.text and "assuming tf_efficientnet_lite0" in caplog.text


def test_an_existing_output_is_not_overwritten(run, half_trained, tmp_path):
    (tmp_path / "mine").mkdir()
    refused(run("convert", f"--source={half_trained}", f"--output={tmp_path / 'mine'}"), "exists; remove it or name another --output")
    assert list((tmp_path / "mine").iterdir()) == []


def test_convert_runs_as_a_process_and_on_a_full_disk_leaves_nothing(half_trained, tmp_path):
    words = ["convert", f"--source={half_trained}", f"--output={tmp_path / 'flax'}"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}
    # writing more than 8 KiB to a file fails, as on a full disk
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "limited", sys.executable, "main.py", *words]
    done = subprocess.run(limited, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "cannot be written" in done.stderr.splitlines()[-1] and not done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name != ".flax.partial"] == []
    assert result_of(command(*words))["model"] == "bnext"
    assert [path.name for path in tmp_path.iterdir()] == ["flax"]


def test_without_pytorch_a_pth_file_is_read_but_not_written(run, half_trained, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("convert", f"--source={half_trained}", f"--output={tmp_path / 'a.safetensors'}")[0] == 0
    refused(
        run("convert", f"--source={half_trained}", f"--output={tmp_path / 'b.pth'}"),
        "needs torch, which is not installed; `pip install torch`",
        "or write a .safetensors file",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_averaged_weights_are_converted_unless_the_flag_says_raw(run, tmp_path):
    """As timm's train.py writes them. The bias of the classifier tells the two apart."""
    raw, averaged = drawn(), broken(**{"fc.bias": np.full(10, 0.5, np.float32)})
    tensors = [{name: torch.from_numpy(np.array(value)) for name, value in one.items()} for one in (raw, averaged)]
    torch.save(dict(zip(("state_dict", "state_dict_ema"), tensors, strict=True)), tmp_path / "a.ckpt")
    from safetensors.numpy import load_file

    for i, (words, expected) in enumerate({(): averaged, ("--weights=ema",): averaged, ("--weights=raw",): raw}.items()):
        output = tmp_path / f"{i}.safetensors"
        assert run("convert", f"--source={tmp_path / 'a.ckpt'}", f"--output={output}", *words)[0] == 0
        np.testing.assert_array_equal(load_file(output)["fc.bias"], expected["fc.bias"])
    refused(run("count", f"--checkpoint={tmp_path / 'a.ckpt'}", "--weights=swa"), "--weights is 'swa'", "state_dict_ema (averaged)")
    run("convert", f"--source={tmp_path / 'a.ckpt'}", f"--output={tmp_path / 'flax'}")
    refused(run("evaluate", f"--checkpoint={tmp_path / 'flax'}", "--weights=raw"), "is not a PyTorch file", "leave --weights out")
    refused(run("count", "--weights=raw"), "--weights chooses in a PyTorch file")


def test_a_network_without_a_temperature_has_none_in_any_result_or_file(run, tmp_path):
    network = create_model("convnext", 10, widths=(8,), depths=(1,), patch=4, rngs=nnx.Rngs(0))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    given = "--preprocessing=mean=0.5 std=0.5 input_size=16 crop_pct=1"
    save(tmp_path / "flax", network)
    code, result, error = run("convert", f"--source={tmp_path / 'flax'}", f"--output={tmp_path / 'a.safetensors'}")
    assert code == 0 and result["epoch"] == 0 and "temperature" not in result, error
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert "temperature" not in file.metadata() and not [name for name in file.keys() if "temperature" in name]  # noqa: SIM118
    for path in ("flax", "a.safetensors"):
        assert load(tmp_path / path)[1]["temperature"] is None
        code, result, error = run("predict", f"--checkpoint={tmp_path / path}", given, tmp_path / "a.png")
        assert code == 0 and result["epoch"] == 0 and "temperature" not in result, error
