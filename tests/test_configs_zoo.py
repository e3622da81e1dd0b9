"""The configurations of the eight networks before BNext: the published values, the commands in their docstrings, and the smoke forms."""

import importlib
import re
import shlex

import pytest

from bnext_jax import cli as program

LABELS, REAL = ("labels", "smoke"), {"binary_weights": False}
REACT = ("step1", "step2", "smoke_step1", "smoke_step2")
R2B = ("step0", "step1", "step2", "step3", *(f"smoke_step{i}" for i in range(4)))
MELIUS, POKE = ("22", "29", "42", "59", "a", "b", "c", "smoke"), ("1.0x", "0.5x", "0.75x", "2.0x", "smoke")
# file -> its forms, figures in the docstring
FILES = {
    "imagenet_bnn18": (LABELS, ("42.2 %",)),
    "imagenet_xnornet18": (LABELS, ("51.2 %",)),
    "imagenet_birealnet18": (LABELS, ("56.4 %", "79.5 %")),
    "imagenet_reactnet18": (REACT, ("65.5 %", "65.9 %")),
    "imagenet_reactnet_a": (REACT, ("69.4 %", "69.5 %")),
    "imagenet_real_to_binary": (R2B, ("65.4 %", "86.2 %", "65.0 %", "85.7 %")),
    "imagenet_meliusnet": (MELIUS, ("63.6 %", "65.8 %", "69.2 %", "70.7 %", "63.4 %", "65.7 %", "64.1 %")),
    "imagenet_pokebnn": (POKE, ("65.2 %", "70.5 %", "73.4 %", "77.2 %", "75.6 %")),
}
NONE, LIGHT = (0.0, 0.0), "random_resized_crop(224)|lighting(0.1)|flip"
CROP = "random_resized_crop(224)|flip"
# (file, form) -> network, optimizer, rate, (decay of weights, of the rest), epochs, batch, transform
VALUES = {
    ("imagenet_bnn18", "labels"): ("bnn18", "sgd", 0.1, (1e-4, 1e-4), 100, 256, CROP),
    ("imagenet_xnornet18", "labels"): ("xnornet18", "adam", 1e-3, NONE, 58, 256, CROP),
    ("imagenet_birealnet18", "labels"): ("birealnet18", "adam", 1e-3, NONE, 256, 512, LIGHT),
    ("imagenet_reactnet18", "step1"): ("reactnet18", "adam", 2.5e-3, (1e-5, 0.0), 128, 512, LIGHT),
    ("imagenet_reactnet18", "step2"): ("reactnet18", "adam", 2.5e-3, NONE, 128, 512, LIGHT),
    ("imagenet_reactnet_a", "step1"): ("reactnet_a", "adam", 1.25e-3, (1e-5, 0.0), 128, 256, LIGHT),
    ("imagenet_reactnet_a", "step2"): ("reactnet_a", "adam", 1.25e-3, NONE, 128, 256, LIGHT),
    ("imagenet_real_to_binary", "step0"): ("resnet18", "sgd", 0.1, (1e-4, 1e-4), 100, 512, CROP),
    ("imagenet_real_to_binary", "step1"): ("real_to_binary", "adam", 1e-3, (2e-5, 0.0), 75, 256, CROP),
    ("imagenet_real_to_binary", "step2"): ("real_to_binary", "adam", 1e-3, (2e-5, 0.0), 75, 256, CROP),
    ("imagenet_real_to_binary", "step3"): ("real_to_binary", "adam", 2e-4, NONE, 75, 256, CROP),
    ("imagenet_meliusnet", "22"): ("meliusnet22", "radam", 2e-3, NONE, 120, 64, CROP),
    ("imagenet_meliusnet", "c"): ("meliusnet_c", "radam", 2e-3, NONE, 120, 64, CROP),
    ("imagenet_pokebnn", "1.0x"): ("pokebnn", "adam", 6.4e-4, (5e-5, 0.0), 800, 8192, CROP),
}
# (file, form) -> other fields that the recipe sets
MORE = {
    ("imagenet_bnn18", "labels"): {"schedule": "steps", "step_epochs": (30, 60, 90), "step_factor": 0.1, "decay_until": 60, "beta1": 0.9},
    ("imagenet_xnornet18", "labels"): {"schedule": "steps", "step_epochs": (20, 35, 45, 50), "step_factor": 0.1},
    ("imagenet_birealnet18", "labels"): {"schedule": "linear", "ahead": 1, "final_rate": 0.0, "label_smoothing": 0.1},
    ("imagenet_reactnet18", "step1"): {"schedule": "linear", "ahead": 1, "form": "teacher", "extra": REAL, "init": ""},
    ("imagenet_reactnet_a", "step2"): {"schedule": "linear", "ahead": 1, "form": "teacher", "extra": {}, "init": "runs/reactnet_a_step1"},
    ("imagenet_real_to_binary", "step0"): {"schedule": "cosine", "warmup_epochs": 5, "main": ""},
    ("imagenet_real_to_binary", "step1"): {
        "schedule": "steps", "step_epochs": (40, 60, 70), "step_factor": 0.3, "warmup_epochs": 5, "form": "labels", "kl_weight": 3.0,
        "attention_weight": 30.0, "extra": {**REAL, "activation": "tanh"}, "main": "runs/real_to_binary_step0", "init": "",
    },
    ("imagenet_real_to_binary", "step2"): {"extra": REAL, "main": "runs/real_to_binary_step1", "init": ""},
    ("imagenet_real_to_binary", "step3"): {
        "kl_weight": 0.8, "attention_weight": 0.0, "extra": {}, "main": "runs/real_to_binary_step2", "init": "runs/real_to_binary_step2",
    },
    ("imagenet_meliusnet", "22"): {"schedule": "cosine", "final_rate": 0.0},
    ("imagenet_pokebnn", "1.0x"): {
        "schedule": "linear", "schedule_epochs": 750, "per_step": True, "beta2": 0.99, "form": "teacher", "precision": "bfloat16",
    },
}  # fmt: skip


def config(file, form):
    return importlib.import_module(f"configs.{file}").get_config(form)


@pytest.mark.parametrize(("file", "form"), VALUES)
def test_a_recipe_has_the_published_values(file, form):
    name, optimizer, rate, decays, epochs, batch, transform = VALUES[file, form]
    made = config(file, form).check()
    found = made.optimizer
    assert (made.model.name, found.name, found.learning_rate) == (name, optimizer, rate)
    assert ((found.decay_weights, found.decay_rest), found.clip_norm) == (decays, None)
    assert (made.epochs, made.batch_size, made.data.train_transform) == (epochs, batch, transform)
    assert (made.data.name, made.data.eval_transform) == ("imagenet2012", "resize(256)|center_crop(224)")
    places = {
        **vars(made.model),
        **vars(made.distill),
        **vars(found),
        **{k: v for k, v in vars(made).items() if k not in ("distill", "model")},
    }
    assert {key: places[key] for key in MORE.get((file, form), {})} == MORE.get((file, form), {})


def test_the_teachers_are_torchvisions_networks():
    assert config("imagenet_reactnet_a", "step1").distill.main == "resnet34.tv_in1k=resnet34.tv_in1k.safetensors"
    assert config("imagenet_pokebnn", "2.0x").distill.main == "resnet50.tv_in1k=resnet50.tv_in1k.safetensors"
    assert config("imagenet_pokebnn", "0.75x").model.extra == {"multiplier": 0.75}


@pytest.mark.parametrize("file", FILES)
def test_all_forms_are_valid_and_another_one_is_refused_with_their_names(file):
    forms, _ = FILES[file]
    for form in forms:
        assert config(file, form).check().data.name == ("digits" if "smoke" in form else "imagenet2012")
    told = f"unknown form 'tiny' of configs/{file}.py: {', '.join(forms[:-1])} or {forms[-1]}"
    with pytest.raises(ValueError, match=re.escape(told)):
        config(file, "tiny")


@pytest.mark.parametrize("file", FILES)
def test_the_docstring_has_the_published_figures_and_commands_that_parse(file):
    text = importlib.import_module(f"configs.{file}").__doc__
    _forms, figures = FILES[file]
    assert all(figure in text for figure in figures) and "arXiv" in text and "--worker=all" in text
    commands = [
        shlex.split(line.strip().split('"')[0], comments=True)[1:] for line in text.splitlines() if line.strip().startswith("python")
    ]
    parsed = [(words[1], program.parse(words)[1]) for words in commands]
    assert next(name for name, _ in parsed) == "prepare" and {name for name, _ in parsed} <= {"prepare", "convert", "train"}
    trained = {given["workdir"]: given["config"] for name, given in parsed if name == "train"}
    needed = [value for made in trained.values() for value in (made.distill.main, made.init) if value.startswith("runs/")]
    fetched = {given["output"] for name, given in parsed if name == "convert"}
    assert set(needed) <= trained.keys()  # every step that another one begins with is trained by a command above
    assert {made.distill.main.partition("=")[2] for made in trained.values() if "=" in made.distill.main} == fetched
    assert len(trained) >= 3
