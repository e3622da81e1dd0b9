"""A stage of a training starts from the one before it (config.init), and learns from it (config.distill.main)."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from bnext_jax import config as c
from bnext_jax import recipes
from bnext_jax.errors import UserError
from bnext_jax.io.checkpoint import describe, load_network
from bnext_jax.io.logs import read_metrics
from bnext_jax.io.save import save
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from bnext_jax.training.init import start_from
from bnext_jax.training.loop import train
from bnext_jax.training.run import Run
from tests.helpers.zoo_small import SMALL, varied

REAL, TANH = {"binary_weights": False}, {"binary_weights": False, "activation": "tanh"}
SIZES = {"reactnet_a": {"widths": (16, 32, 32, 32)}, "real_to_binary": {"widths": (8, 16, 32), "depth": 1}}


def staged(digits, name, stage, init="", teacher=""):
    """The config of a run of three steps of 64 images."""
    arguments = {**SIZES[name], **stage}
    config = recipes.digits_student("labels")
    config.model = c.ModelConfig(name=name, widths=arguments.pop("widths"), extra=arguments)
    config.temperature, config.init, config.distill = c.TemperatureConfig(), str(init), c.DistillConfig(main=str(teacher))
    config.data.directory, config.data.train_split, config.data.eval_split = digits, "train[:192]", "test[:120]"
    config.tensorboard, config.epochs, config.batch_size = False, 1, 64
    return config.check()


def variables_of(folder):
    _, params, rest = split(load_network(folder)[0], training=False)
    return {path: np.asarray(value) for path, value in {**params, **rest}.items()}


@pytest.fixture(scope="module")
def first_step(digits, tmp_path_factory):
    """The folder of a ReActNet-A of three blocks after its first step, with real weights."""
    folder = tmp_path_factory.mktemp("stages") / "step1"
    result = train(staged(digits, "reactnet_a", REAL), folder)
    assert not result["binary"] and describe(folder)["exact_signs"] is None
    return folder


def test_the_second_step_of_reactnet_starts_with_all_weights_of_the_first(digits, tmp_path, first_step):
    trained = variables_of(first_step)
    run = Run(staged(digits, "reactnet_a", {}, init=first_step), tmp_path / "step2")
    latent = run.programs.network.latent
    assert len(latent) == 2 + 3 + 2  # a 3x3 and a 1x1 convolution a block, and one more 1x1 where the width doubles
    for path, value in run.variables.items():
        np.testing.assert_array_equal(value, trained[path], err_msg=path)
    assert {np.sign(trained[path]).min() for path in latent} == {-1}  # real weights, not the fresh positive ones


def test_with_fresh_latent_only_the_weights_of_binary_convolutions_start_anew(first_step):
    model = create_model("reactnet_a", 10, rngs=nnx.Rngs(7), **SIZES["reactnet_a"])
    network, params, rest = split(model, training=True)
    told = {"name": "reactnet_a", "num_classes": 10, "arguments": SIZES["reactnet_a"]}
    found, statistics = start_from(first_step, told, params, rest, fresh_latent=True)
    trained = variables_of(first_step)
    assert found.keys() == params.keys() and len(network.latent) == 7
    for path, value in {**found, **statistics}.items():
        np.testing.assert_array_equal(value, params[path] if path in network.latent else trained[path], err_msg=path)
    for path in network.latent:
        assert float(found[path].min()) >= 0 and float(found[path].max()) < 1e-3, path


def test_the_second_step_trains_to_exact_signs_and_logs_the_flips(digits, tmp_path, first_step):
    result = train(staged(digits, "reactnet_a", {}, init=first_step), tmp_path / "step2")
    assert result["binary"] and describe(tmp_path / "step2")["exact_signs"] is True
    keys = [{key for line in read_metrics(folder) for key in line} for folder in (first_step, tmp_path / "step2")]
    assert not keys[0] & {"binary_share", "flip_ratio", "grad_norm/latent"} and {"binary_share", "grad_norm/latent"} <= keys[1]


def test_each_stage_of_real_to_binary_has_the_one_before_it_as_teacher(digits, tmp_path):
    """Tanh and real weights, then signs and real weights, then binary weights that start from those of stage 2, clipped to [-1, 1]."""
    train(staged(digits, "real_to_binary", TANH), tmp_path / "1")
    train(staged(digits, "real_to_binary", REAL, init=tmp_path / "1", teacher=tmp_path / "1"), tmp_path / "2")
    assert "train_top1/main" in read_metrics(tmp_path / "2")[-1]
    model, metadata = load_network(tmp_path / "2")
    model.stages[0][0].a.conv.kernel[...] = 3 * model.stages[0][0].a.conv.kernel[...] / np.abs(model.stages[0][0].a.conv.kernel[...]).max()
    save(tmp_path / "wide", model, metadata)
    assert metadata["model"]["arguments"]["binary_weights"] is False
    run = Run(staged(digits, "real_to_binary", {}, init=tmp_path / "wide", teacher=tmp_path / "2"), tmp_path / "3")
    trained = variables_of(tmp_path / "wide")
    for path, value in run.variables.items():
        expected = np.clip(trained[path], -1, 1) if path in run.programs.network.latent else trained[path]
        np.testing.assert_array_equal(value, expected, err_msg=path)
    wide = [path for path in run.programs.network.latent if np.abs(trained[path]).max() > 1]
    assert wide == ["stages/0/0/a/conv/kernel"]
    network, teacher = run.schedule.teachers[str(tmp_path / "2")]
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3), np.float32)
    np.testing.assert_array_equal(network(teacher, images)[0], load_network(tmp_path / "2")[0](images))
    assert not network.latent and np.abs(teacher["stages/0/0/a/conv/kernel"]).max() < 3


def test_another_network_is_refused_and_fresh_latent_without_binary_convolutions(tmp_path):
    model = varied("reactnet18", **REAL)
    save(tmp_path / "run", model)
    _, params, rest = split(model, training=True)
    told = {"name": "reactnet18", "num_classes": 10, "arguments": {**SMALL["reactnet18"], "depth": 2}}
    with pytest.raises(UserError, match=r"holds a network with depth 1 \(config.model: 2\); they must be the same"):
        start_from(tmp_path / "run", told, params, rest)
    teacher = create_model("convnext", 10, widths=(8,), depths=(1,), patch=4, rngs=nnx.Rngs(0))
    save(tmp_path / "teacher", teacher)
    told = {"name": "convnext", "num_classes": 10, "arguments": {"widths": (8,), "depths": (1,), "patch": 4}}
    _, params, rest = split(teacher, training=True)
    with pytest.raises(UserError, match=r"config.init_fresh_latent is True, but convnext has no binary convolutions; leave it out"):
        start_from(tmp_path / "teacher", told, params, rest, fresh_latent=True)


def test_a_checkpoint_without_the_arguments_of_stages_is_a_binary_network(tmp_path):
    model = varied("reactnet18")
    save(tmp_path / "run", model)
    arguments = describe(tmp_path / "run")["model"]["arguments"]
    assert not arguments.keys() & {"binary_weights", "activation"}  # what is not said is the default, as in older checkpoints
    found = load_network(tmp_path / "run")[0]
    assert (
        found.config == dataclasses.replace(model.config, binary_weights=True, activation="sign") and split(found, training=True)[0].latent
    )
