"""The configuration files: the values of the recipe, the commands in their docstrings, the manual's changes, and a smoke run."""

import functools
import importlib
import random
import re
import shlex

import numpy as np
import pytest

from bnext_jax import cli as program
from bnext_jax.analysis import count
from bnext_jax.config_json import to_json
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.models.table import abstract_model
from tests.helpers.commands import ROOT

B0, B2, B4, CONVNEXT = "efficientnet_b0.ra_in1k", "efficientnet_b2.ra_in1k", "efficientnet_b4.ra2_in1k", "convnext_tiny.fb_in1k"
NO_FIGURE = "Published top-1: our sources give none for CIFAR"

# docs/spec.md, sections 2 to 4
# file -> network, epochs, batch size, batch-norm group, assistants in order, main teacher, top-1 in the docstring
FILES = {
    "imagenet_bnext_tiny": ("bnext_tiny", 512, 512, 64, (B0,), B2, "Published top-1: 72.4 %"),
    "imagenet_bnext_small": ("bnext_small", 512, 512, 64, (B0,), B2, "Published top-1: 76.1 %"),
    "imagenet_bnext_middle": ("bnext_middle", 512, 512, 64, (B0, B2), B4, "Published top-1: 78.3 %"),
    "imagenet_bnext_large": ("bnext_large", 512, 128, 16, (B0, B4, CONVNEXT), CONVNEXT, "Published top-1: 80.57 %"),
    "imagenet_bnext18": ("bnext18", 512, 512, 64, (B0,), B2, "Published top-1: 68.4 %"),
    "cifar10_bnext18": ("bnext18", 128, 512, None, (), None, NO_FIGURE),
    "cifar10_bnext_tiny": ("bnext_tiny", 128, 512, None, (), None, NO_FIGURE),
    "cifar100_bnext18": ("bnext18", 128, 512, None, (), None, NO_FIGURE),
    "cifar100_bnext_tiny": ("bnext_tiny", 128, 512, None, (), None, NO_FIGURE),
}

# dataset in the file's name -> forms, dataset, splits, transforms for training and evaluation, mean, standard deviation
RECIPES = {
    "imagenet": (
        ("distilled", "labels", "smoke"), "imagenet2012", ("train", "validation"),
        "random_resized_crop(224)|flip|randaugment(rand-m7-mstd0.5-inc1)", "resize(235)|center_crop(224)",
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
    ),
    "cifar10": (
        ("labels", "smoke"), "cifar10", ("train", "test"), "pad_crop(4)|flip", "", (0.507, 0.487, 0.441), (0.267, 0.256, 0.276),
    ),
    "cifar100": (
        ("labels", "smoke"), "cifar100", ("train", "test"), "pad_crop(4)|flip", "", (0.507, 0.487, 0.441), (0.267, 0.256, 0.276),
    ),
}  # fmt: skip

PARAMETERS = {  # docs/spec.md, section 2; 1000 classes
    "bnext_tiny": 30_862_236,
    "bnext_small": 68_594_614,
    "bnext_middle": 134_501_974,
    "bnext_large": 326_546_640,
    "bnext18": 12_064_648,
}


def module(file):
    return importlib.import_module(f"configs.{file}")


def recipe(file):
    return RECIPES[file.split("_")[0]]


@functools.cache
def parameters(name):
    return count.weigh(abstract_model(name))["parameters"]


def test_a_smoke_form_trains_from_the_command_line(run, digits, tmp_path):
    """Trains one file only: test_smoke_forms_differ_only_in_their_transforms shows that all files compile the same program."""
    words = ["--config=configs/imagenet_bnext_tiny.py:smoke", f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}"]
    code, result, error = run("train", *words)
    assert code == 0, error
    assert (result["steps"], result["examples"]) == (2 * 256 // 64, 120)


@pytest.mark.parametrize("file", FILES)
def test_the_transforms_of_the_smoke_form_give_images_of_one_size(file):
    config = module(file).get_config("smoke").check()
    scan = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    for line in (config.data.train_transform, config.data.eval_transform):
        assert Transform(line)(scan, random.Random(0)).shape == (32, 32, 3)


@pytest.mark.parametrize("file", FILES)
def test_every_form_has_the_values_of_the_published_recipe(file):
    name, epochs, batch, group, assistants, main, _ = FILES[file]
    forms, dataset, splits, train_transform, eval_transform, mean, std = recipe(file)
    for form in forms[:-1]:
        config = module(file).get_config(form).check()
        assert config.model.name == name and config.model.elm_attention and config.model.info_recoupling
        assert (config.epochs, config.batch_size, config.batch_norm_group) == (epochs, batch, group)
        assert config.eval_batch_size % 8 == 0
        data = config.data
        assert (data.name, data.train_split, data.eval_split) == (dataset, *splits)
        assert (data.train_transform, data.eval_transform, data.mean, data.std) == (train_transform, eval_transform, mean, std)
        optimizer, temperature = config.optimizer, config.temperature
        assert (optimizer.learning_rate, optimizer.decay_weights, optimizer.decay_rest, optimizer.clip_norm) == (1e-3, 1e-8, 1e-3, 5)
        assert (optimizer.warmup_epochs, temperature.decay, temperature.exact_from) == (5, 0.9, None)
        distill = config.distill
        if form == "distilled":
            assert distill.main == f"{main}={main}.safetensors"
            assert distill.assistants == tuple(f"{tag}={tag}.safetensors" for tag in assistants)
            assert (distill.measure, distill.precision, distill.form) == (True, "bfloat16", "product_of_means")
        else:
            assert (distill.main, distill.assistants) == ("", ())


@pytest.mark.parametrize("file", FILES)
def test_the_first_form_is_the_default(file):
    assert to_json(module(file).get_config()) == to_json(module(file).get_config(recipe(file)[0][0]))


@pytest.mark.parametrize("file", FILES)
def test_the_network_has_the_published_number_of_parameters(file):
    model = module(file).get_config().model
    assert model.arguments() == {}  # only the name is set, so this is the published network
    assert parameters(model.name) == PARAMETERS[FILES[file][0]]


def test_smoke_forms_differ_only_in_their_transforms():
    plain = [to_json(module(file).get_config("smoke").check()) for file in (*FILES, "fashion")]
    for config in plain:
        assert "(32)" in config["data"].pop("train_transform") and "(32)" in config["data"].pop("eval_transform")
    assert all(config == plain[0] for config in plain)


@pytest.mark.parametrize("file", FILES)
def test_an_unknown_form_is_refused_with_the_file_and_its_forms(file):
    *first, last = recipe(file)[0]
    with pytest.raises(ValueError, match=re.escape(f"unknown form 'tiny' of configs/{file}.py: {', '.join(first)} or {last}")):
        module(file).get_config("tiny")


@pytest.mark.parametrize("file", FILES)
def test_the_docstring_has_the_published_top1_and_commands_that_parse(file):
    text = module(file).__doc__
    _, _, _, _, assistants, main, figure = FILES[file]
    forms, dataset, *_ = recipe(file)
    assert figure in text and "arXiv 2211.12933" in text and "--worker=all" in text
    lines = [line.strip().split('"')[0] for line in text.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python main.py")]
    parsed = [(words[1], program.parse(words)[1]) for words in commands]
    assert parsed[0][0] == "prepare" and parsed[0][1]["config"].data.name == dataset
    fetched = {given["source"]: given["output"] for command, given in parsed if command == "convert"}
    assert fetched == {tag: f"{tag}.safetensors" for tag in {*assistants, main} - {None}}
    trained = [(given["workdir"], given["config"].data.name) for command, given in parsed if command == "train"]
    alone = [(f"runs/{file}_labels", dataset)] if len(forms) == 3 else []
    assert trained == [(f"runs/{file}", dataset), *alone, ("/tmp/smoke", "digits"), (f"gs://BUCKET/runs/{file}", dataset)]


def test_fashion_mnist_keeps_its_28_pixels_and_its_commands_parse():
    file = module("fashion")
    config = file.get_config().check()
    photo = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    for line in (config.data.train_transform, config.data.eval_transform):
        assert Transform(line)(photo, random.Random(0)).shape == (28, 28, 3)
    assert (config.data.name, config.data.mean, config.data.std) == ("fashion_mnist", (0.286,) * 3, (0.353,) * 3)  # published figures
    assert 28 % abstract_model(config.model.name, 10, **config.model.arguments()).total_stride == 0
    lines = [line.strip() for line in file.__doc__.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python main.py")]
    named = [(words[1], program.parse(words)[1]["config"].data.name) for words in commands]
    assert named == [("prepare", "fashion_mnist")] * 2 + [("train", "fashion_mnist"), ("train", "digits")]
    with pytest.raises(ValueError, match=r"unknown form 'tiny' of configs/fashion\.py: labels or smoke"):
        file.get_config("tiny")


def proposals():
    """Each `--config.FIELD=VALUE` in the section of docs/training.md that all recipes share. 2 replaces K."""
    sections = re.split(r"^#{2,3} +", (ROOT / "docs" / "training.md").read_text(), flags=re.MULTILINE)
    (text,) = [section for section in sections if section.startswith("Fewer chips, ablations, distillation")]
    return [change.replace("=K", "=2") for change in re.findall(r"`(--config\.[^`]+=[^`]+)`", text)]


@pytest.mark.parametrize("file", FILES)
def test_the_changes_that_the_manual_proposes_can_be_made(file):
    ablated = "18" not in file  # BNext-18 has neither switch
    changes = [change for change in proposals() if ablated or not re.search(r"elm_attention|info_recoupling", change)]
    words = [word for change in changes for word in shlex.split(change)]
    config = program.parse(["main.py", "train", f"--config=configs/{file}.py", "--workdir=x", *words])[1]["config"]
    assert (config.distill.form, config.distill.assistants) == ("per_instance", ())
    assert (config.accumulate, config.mesh, config.init) == (2, "data=4,shard=2", "PATH")
    assert config.model.elm_attention == config.model.info_recoupling == (not ablated)
    assert "docs/training.md" in module(file).__doc__
