"""The eight networks train on digits through the same step, checkpoints and logs as BNext, and reach a stated accuracy."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from bnext_jax import config as c
from bnext_jax import recipes
from bnext_jax.commands.evaluate import evaluate
from bnext_jax.io.checkpoint import describe, load_network
from bnext_jax.io.logs import read_metrics
from bnext_jax.nn.network import split
from bnext_jax.training.loop import train
from tests.helpers.checkpoints import assert_same_state
from tests.helpers.zoo_small import SMALL

NARROW = {"widths": (8, 16, 32)}
# The smoke forms of the published recipes: file, [(form, top-1 to reach in percent)]. Chance is 10.
SMOKE = [
    ("real_to_binary", [("smoke_step0", 90), ("smoke_step1", 80), ("smoke_step2", 60), ("smoke_step3", 75)]),
    ("bnn18", [("smoke", 75)]),
    ("xnornet18", [("smoke", 75)]),
    ("birealnet18", [("smoke", 70)]),
    ("reactnet18", [("smoke_step1", 70), ("smoke_step2", 70)]),
    ("reactnet_a", [("smoke_step1", 70), ("smoke_step2", 70)]),
    ("meliusnet", [("smoke", 75)]),
]
# Networks without a recipe of their own, under that of the quick start: name, arguments in place of those of SMALL, epochs, top-1 to reach.
# The strong baseline needs longer, because its running statistics move by 1 % a step.
RUNS = [
    ("strong_baseline", NARROW, 16, 80),
    ("meliusnet", {"growth": 8, "variant": "larq"}, 8, 75),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder in which all smoke forms of the module are trained: some take the run of another one as their teacher."""
    return tmp_path_factory.mktemp("smoke")


def configured(digits, name, more, epochs):
    """The recipe of the quick start for one of the networks, without a temperature and without teachers."""
    arguments = {**SMALL[name], **more}
    widths = arguments.pop("widths", ())
    config = recipes.digits_student("labels")
    config.model = c.ModelConfig(name=name, widths=widths, extra=arguments)
    config.temperature = c.TemperatureConfig()
    config.data.directory, config.tensorboard = digits, False
    config.epochs = config.eval_every_epochs = epochs
    return config


def smoke(digits, name, form):
    """The configuration of a smoke form."""
    config = importlib.import_module(f"configs.imagenet_{name}").get_config(form)
    config.data.directory = digits
    return config


def check_run(config, folder, top1, binary=True):
    """Trains a run, and checks its accuracy, its log and its checkpoint."""
    result = train(config.check(), folder)
    assert result["top1"] >= top1 and result["binary"] is binary and "temperature" not in result
    lines = read_metrics(folder)
    assert not [line for line in lines if "temperature" in line]
    assert evaluate(str(folder), config=config)["top1"] == result["top1"]
    if not binary:
        return
    assert lines[-1]["binary_share"] == 1 and describe(folder)["exact_signs"] is True
    assert sum(line["flip_ratio"] for line in lines) > 0.001  # latent weights change their signs
    network, params, _ = split(load_network(folder)[0], training=True)
    for path, (low, high) in network.bounds.items():
        assert low <= params[path].min() and params[path].max() <= high, path


@pytest.mark.parametrize(("name", "forms"), SMOKE, ids=lambda value: value if isinstance(value, str) else "-")
def test_the_smoke_forms_of_a_published_recipe_learn_the_digits(digits, place, monkeypatch, name, forms):
    monkeypatch.chdir(place)
    for form, top1 in forms:
        check_run(smoke(digits, name, form), f"runs/smoke_{name}{form.removeprefix('smoke')}", top1, binary=form in ("smoke", forms[-1][0]))
    if len(forms) > 1:  # the last step is taught by the network that it starts from, or by the teacher of the step before
        assert read_metrics(f"runs/smoke_{name}_{forms[-1][0].removeprefix('smoke_')}")[-1]["train_top1/main"] > 50


@pytest.mark.parametrize(("name", "more", "epochs", "top1"), RUNS, ids=lambda value: value if isinstance(value, str) else "-")
def test_a_small_form_learns_the_digits(digits, tmp_path, name, more, epochs, top1):
    check_run(configured(digits, name, more, epochs), tmp_path / "run", top1)


def test_a_narrow_real_valued_resnet_learns_the_digits(digits, tmp_path):
    config = recipes.digits_teacher("main")
    config.model = c.ModelConfig(name="resnet", widths=(8, 16), extra={"depths": (1, 1), "stem_stride": 1})
    config.data.directory, config.tensorboard = digits, False
    config.epochs, config.optimizer.learning_rate = 10, 1e-2
    result = train(config.check(), tmp_path / "run")
    assert result["top1"] >= 85 and "temperature" not in result
    assert evaluate(str(tmp_path / "run"), config=config.check())["top1"] == result["top1"]


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_pokebnn_stopped_in_each_of_its_phases_ends_as_the_whole_run(digits, place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    teacher = pathlib.Path("runs/smoke_real_to_binary_step0")
    if not teacher.exists():  # the test runs alone
        train(smoke(digits, "real_to_binary", "smoke_step0").check(), teacher)
    check_run(smoke(digits, "pokebnn", "smoke"), tmp_path / "whole", 75)
    for stop, exact in ((8, False), (50, True), (0, True)):  # bounds from step 20, quantized weights from step 22 on
        config = smoke(digits, "pokebnn", "smoke")
        config.stop_at_step = stop
        result = train(config.check(), tmp_path / "stopped")
        assert (result["binary"], describe(tmp_path / "stopped")["exact_signs"]) == (exact, exact)
    assert_same_state(tmp_path / "stopped", tmp_path / "whole", 110)
    variables = jax.tree.map(np.asarray, split(load_network(tmp_path / "whole")[0], training=False)[2])
    bounds = [value for path, value in variables.items() if path.endswith("/bounds")]
    assert len(bounds) == 2 + 3 * 3 * 2 + 1 and all(value.min() >= 0 for value in bounds)  # stem, gates of three bottlenecks, classifier
