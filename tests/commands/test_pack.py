"""`pack`: a trained network becomes a packed file, and the file is a network for every command."""

import csv

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bnext_jax.analysis.count import weigh
from bnext_jax.errors import UserError
from bnext_jax.io.load import describe, load
from bnext_jax.io.save import save
from bnext_jax.io.torch import torch_files
from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.packed import file
from bnext_jax.packed.network import PackedNetwork
from tests.helpers.commands import SMOKE, command, refused, result_of
from tests.helpers.exact_networks import exact_network

WIDTHS = (16, 32, 64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a network with exactly binary weights, its work directory, its packed file), and the result of `pack`."""
    folder = tmp_path_factory.mktemp("pack")
    model, metadata = exact_network(widths=WIDTHS)
    save(folder / "run", model, metadata)
    done = command("pack", f"--checkpoint={folder / 'run'}", f"--output={folder / 'net.bnext'}")
    return model, folder / "run", folder / "net.bnext", result_of(done), done.stderr


def test_it_prints_the_sizes_and_the_check(made):
    model, _, packed, result, text = made
    content = packed.read_bytes()
    # One word of 4 bytes holds up to 32 input channels of one tap of one output. Block 1 has a 3x3 unit and two 1x1 units of 16 channels,
    # block 2 the same of 32.
    assert result["bits"] == 4 * (9 * 16 + 2 * 16 + 9 * 32 + 2 * 32)
    assert result["bytes"] == len(content) == result["bits"] + result["rest"] + result["header"]
    assert result["counted"] == weigh(model)["bytes"]
    assert result["zero_weights"] == 0
    check = result["check"]
    assert check["form"] == "engine" and check["same_top1"] == check["images"] == 8 and check["difference"] < 1e-4
    for number in (result["bytes"], result["bits"], result["rest"], result["header"], result["counted"]):
        assert f"{number:,} bytes" in text


def test_evaluate_gives_the_same_answer_image_by_image(made, run, digits, tmp_path):
    answers, results = [], []
    for number, checkpoint in enumerate(made[1:3]):
        rows = tmp_path / f"{number}.csv"
        words = (f"--checkpoint={checkpoint}", SMOKE, f"--config.data.directory={digits}", f"--predictions={rows}")
        code, result, error = run("evaluate", *words)
        assert code == 0, error
        with open(rows, newline="") as opened:
            answers.append([(row["index"], row["label"], row["prediction"]) for row in csv.DictReader(opened)])
        results.append(result)
    assert len(answers[0]) == results[0]["examples"] and answers[0] == answers[1]
    assert results[0]["top1"] == results[1]["top1"] and results[1]["binary"] is True


def test_predict_and_count_take_it(made, run, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    found = [run("predict", f"--checkpoint={checkpoint}", tmp_path / "photo.png") for checkpoint in made[1:3]]
    best = [[(one["class"], round(one["probability"], 4)) for one in result["images"][0]["top5"]] for _, result, _ in found]
    assert best[0] == best[1]
    counted = [run("count", f"--checkpoint={checkpoint}", "--resolution=32")[1] for checkpoint in made[1:3]]
    assert counted[0] == counted[1]


def test_convert_writes_plus_and_minus_one(made, run, tmp_path):
    model, _, packed, *_ = made
    assert run("convert", f"--source={packed}", f"--output={tmp_path / 'net.pth.tar'}")[0] == 0
    tensors, original = torch_files.read(tmp_path / "net.pth.tar").tensors, to_state_dict(model)
    assert tensors.keys() == original.keys()
    binary = [name for name in tensors if name.endswith("binary_conv.weight")]
    assert len(binary) == 6
    for name in binary:
        np.testing.assert_array_equal(tensors[name], np.sign(original[name]))
    code, result, error = run("pack", f"--checkpoint={tmp_path / 'net.pth.tar'}", f"--output={tmp_path / 'again.bnext'}")
    assert code == 0 and result["check"]["same_top1"] == 8, error
    for name in ("again", "once_more"):  # a work directory from a packed file is a network like others
        assert run("convert", f"--source={packed}", f"--output={tmp_path / name}")[0] == 0
        code, _, error = run("pack", f"--checkpoint={tmp_path / name}", f"--output={tmp_path / name}.BNEXT")
        assert code == 0 and load(tmp_path / f"{name}.BNEXT")[1]["packed"], error
    before, after = file.read(packed)[1], file.read(tmp_path / "again.bnext")[1]
    np.testing.assert_array_equal(before["blocks/0/unit3x3/conv/kernel"], after["blocks/0/unit3x3/conv/kernel"])
    np.testing.assert_allclose(after["stem/norm/bias"], before["stem/norm/bias"], rtol=1e-6, atol=1e-6)


def test_the_quantized_edition(made, run, tmp_path):
    path = tmp_path / "edition.bnext"
    code, result, error = run("pack", f"--checkpoint={made[1]}", f"--output={path}", "--gate_bits=4")
    assert code == 0, error
    assert result["counted"] == weigh(made[0])["bytes_edition"] and result["rest"] < made[3]["rest"]
    assert describe(path)["model"]["arguments"]["gate_bits"] == 4
    refused(run("evaluate", f"--checkpoint={path}", SMOKE, "--gate_bits=8"), "packed gates cannot be quantized")


def test_load_gives_a_callable_in_every_form(made):
    _, run_folder, packed, *_ = made
    x = np.random.default_rng(0).standard_normal((3, 16, 16, 3), np.float32)
    expected = np.asarray(load(run_folder)[0](jnp.asarray(x)))
    for form in (None, "engine", "xla", "float"):
        model, metadata = load(packed, form=form)
        assert metadata["model"]["name"] == "bnext" and isinstance(model, PackedNetwork) == (form in (None, "engine"))
        assert np.abs(np.asarray(model(jnp.asarray(x))) - expected).max() <= 1e-4 * expected.std(), form
    with pytest.raises(UserError, match="there is no form 'fast'"):
        load(packed, form="fast")
    with pytest.raises(UserError, match='load its file with form="float"'):
        save(packed.with_name("other"), load(packed)[0])
    with pytest.raises(UserError, match="holds bnext, not bnext_tiny"):
        load(packed, "bnext_tiny")


def test_zero_weights_are_told(run, tmp_path):
    model, metadata = exact_network(widths=(8, 8))
    kernel = model.blocks[0].unit3x3.conv.kernel
    kernel[...] = kernel[...].at[1, 1, :2, 3].set(0)
    save(tmp_path / "run", model, metadata)
    code, result, error = run("pack", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'net.bnext'}")
    assert code == 0 and result["zero_weights"] == 2 and result["check"]["same_top1"] == 8
    assert "2 latent weights are exactly 0, which one bit cannot hold: they count as +1" in error


def test_bad_input_is_one_sentence_and_leaves_nothing(made, run, tmp_path):
    _, folder, packed, *_ = made
    soft, metadata = exact_network(widths=(8, 8))
    soft.temperature[...] = jnp.full((), 0.25)
    save(tmp_path / "soft", soft, {**metadata, "temperature": 0.25})
    output = f"--output={tmp_path / 'x.bnext'}"
    refused(
        run("pack", f"--checkpoint={tmp_path / 'soft'}", output),
        f"the weights of {tmp_path / 'soft'} are not exactly binary at its temperature 0.25",
    )
    refused(run("pack", f"--checkpoint={folder}", f"--output={packed}"), "exists; remove it")
    refused(run("pack", f"--checkpoint={folder}", f"--output={tmp_path / 'x.pth'}"), "needs one of the endings .bnext")
    refused(run("pack", f"--checkpoint={packed}", output), "is packed already")
    refused(run("pack", f"--checkpoint={tmp_path / 'none.bnext'}", output), "does not exist")
    refused(run("evaluate", f"--checkpoint={tmp_path / 'none.bnext'}", SMOKE), "does not exist")
    (tmp_path / "cut.bnext").write_bytes(packed.read_bytes()[:5000])
    refused(run("predict", f"--checkpoint={tmp_path / 'cut.bnext'}", "x.png"), "cut.bnext is damaged")
    assert not list(tmp_path.glob("*x.bnext*"))
