"""The command line prints help, parses typed flags, and proposes the nearest known word for an unknown word."""

import os
import subprocess
import sys

import pytest

from bnext_jax import cli
from bnext_jax.commands.help_texts import comments, fields
from bnext_jax.commands.table import COMMANDS
from bnext_jax.config import Config
from bnext_jax.errors import UserError
from tests.helpers.commands import ROOT, SMOKE, refused

TRAIN = ["bnext", "train", SMOKE, "--workdir=x"]


def helped(capsys, *words):
    """The text that main() prints for a request for help."""
    assert cli.main(["bnext", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"], ["help", "--help"], ["help", "-h"]])
def test_help_names_every_command_with_its_summary(capsys, words):
    text = helped(capsys, *words)
    for name, command in COMMANDS.items():
        assert f"  {name}" in text and command.summary in text
    assert "Exit codes" in text


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("form", ["{} --help", "{} -h", "help {}"])
def test_a_commands_help_has_its_flags_and_examples(capsys, name, form):
    text = helped(capsys, *form.format(name).split())
    for flag in COMMANDS[name].flags:
        assert f"--{flag.name}" in text and flag.meaning[:20] in text
    assert all(f"bnext {example}" in text for example in COMMANDS[name].examples)


@pytest.mark.parametrize(("name", "example"), [(name, example) for name, spec in COMMANDS.items() for example in spec.examples])
def test_the_examples_of_each_command_parse(name, example):
    words = ["bnext", *example.split()]
    assert cli.help_text(words[1:]) if "--help" in words else cli.parse(words)[0] == name


def test_help_on_a_config_lists_every_field_with_its_comment_and_value(capsys):
    text = helped(capsys, "train", SMOKE, "--config.seed=7", "--help")
    for name, _, comment, _ in fields(Config()):
        assert f"{name}=" in text and comment, name
    assert "config.seed=7" in text and "seed of initialization, image order and augmentation" in text and "* config.tensorboard=" in text
    assert helped(capsys, "help", "train", SMOKE, "--config.seed=7") == text
    assert "config.epochs=2 " in text and "  config.epochs" in text  # no *: it may not change on resume


def test_help_starts_without_jax_and_numpy():
    code = (
        "import sys; from bnext_jax.cli import main; code = main(['bnext', 'train', '--config=configs/digits_student.py', '--help'])"
        "; print(code, *({'jax', 'numpy', 'tensorflow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.split() == ["0"] and "config.model.widths" in done.stdout


def test_only_a_comment_on_a_fields_own_line_belongs_to_it():
    class Example:
        first: int = 1  # the first
        # a comment on its own line belongs to no field
        second: str = "# no comment"

    assert comments(Example) == {"first": "the first"}


@pytest.mark.parametrize(
    ("change", "name", "expected"),
    [
        ("batch_norm_group=None", "batch_norm_group", None),
        ("batch_norm_group=16", "batch_norm_group", 16),
        ("temperature.exact_from=None", "temperature.exact_from", None),
        ("temperature.exact_from=0.5", "temperature.exact_from", 0.5),
        ("model.gate_bits=None", "model.gate_bits", None),
        ("model.gate_bits=4", "model.gate_bits", 4),
        ("model.stem_stride=None", "model.stem_stride", None),
        ("tensorboard=False", "tensorboard", False),
        ("model.extra={}", "model.extra", {}),
    ],
)
def test_fields_of_every_type_can_be_set_and_optional_fields_to_none(change, name, expected):
    config = cli.parse([*TRAIN, f"--config.{change}"])[1]["config"]
    assert dict((key.removeprefix("config."), value) for key, value, *_ in fields(config))[name] == expected


def test_a_whole_dict_can_be_set():
    words = [
        "bnext",
        "train",
        "--config=configs/digits_teacher.py:smoke",
        "--workdir=x",
        "--config.model.extra={'widths': (8, 16), 'depths': (1, 2)}",
    ]
    assert cli.parse(words)[1]["config"].model.arguments() == {"widths": (8, 16), "depths": (1, 2)}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--config.epochs=None"], "config.epochs is None; it needs a value (int)"),
        (["--config.optimizer.beta1=3.0"], "config.optimizer.beta1 is 3.0; it must lie in [0, 1)"),
        (["--config.optimizer.beta1=None"], "config.optimizer.beta1 is None; it needs a value (float)"),
        (["--config.model.extra=3"], "3"),
        (["--config.model.extra.depth=3"], "there is no field config.model.extra.depth; set the whole dict: --config.model.extra="),
        (["--config.data.name=None"], "config.data.name is None; it needs a value (str)"),
        (["--config.model.widths=None"], "config.model.widths is (None,); it may not contain None"),
        (["--config.data.mean=(0.5,0.5,None)"], "config.data.mean is (0.5, 0.5, None); it may not contain None"),
        (["--config.model.name=bnext_tinny"], "config.model.name is 'bnext_tinny'; did you mean bnext_tiny?"),
        (["--config.batchsize=3"], "there is no field config.batchsize; did you mean config.batch_size?"),
        (["--config.optimzer.beta1=3"], "there is no field config.optimzer.beta1; did you mean config.optimizer.beta1?"),
        (["--wrkdir=y"], "train has no flag --wrkdir; did you mean workdir?"),
        (["--config.temperature=3"], "config.temperature"),
        (["--config.temperature.decay=2.0"], "config.temperature.decay is 2.0; it must lie in (0, 1]"),
        (["--config.temperature.deca=0.8"], "there is no field config.temperature.deca; did you mean config.temperature.decay?"),
        (
            ["--config.model.name=efficientnet_b0", "--config.model.widths=()"],
            "config.temperature.exact_from is 0.5, but efficientnet_b0 takes no temperature; leave it at its default, None",
        ),
        (["--config.model.gate_bits=5"], "config.model.gate_bits is 5; it is 4 or 8, or None"),
        (["--config.model.widths=(8,12)"], "config.model.widths (8, 12) are not a BNext"),
        (["--config.model.extra={'depth': 3}"], "config.model: model 'bnext' takes no argument 'depth'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_field(run, words, told):
    refused(run("train", SMOKE, "--workdir=x", *words), told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["help", "cuont"], "unknown command 'cuont'; did you mean count?"),
        (["count", "--model=bnext_tinny"], "there is no model 'bnext_tinny'; did you mean bnext_tiny?"),
        (["count", "--classes=ten"], "--classes 'ten' is not a whole number"),
        (["count", "--classes=2147483648"], "--classes 2147483648 is too large; it may be at most 2147483647"),
        (["count", "--resolution=32769"], "--resolution 32769 is too large; it may be at most 32768"),
        (["quickstart", "--seed=4294967296"], "--seed 4294967296 is too large; it may be at most 4294967295"),
        (["count", "--checkpoint="], "--checkpoint is empty"),
        (["plan", "--config=configs/digits_student.py"], "plan needs --topology; see `bnext plan --help`"),
    ],
)
def test_unknown_words_and_wrong_flags_are_refused_with_advice(run, words, told):
    refused(run(*words), told)


def test_flags_reach_their_functions_with_types():
    assert cli.parse(["bnext", "count", "--widths=(8,16)", "--classes=10", "--per_layer"])[1] == {
        "checkpoint": None, "model": (), "widths": (8, 16), "classes": 10, "resolution": None, "gate_bits": None, "per_layer": True,
        "output": None, "weights": None,
    }  # fmt: skip
    _, given = cli.parse(["bnext", "plan", SMOKE, "--topology=v5e:2x2", "--topology=v6e:2x2"])
    assert given["topology"] == ("v5e:2x2", "v6e:2x2") and given["fit"] is False
    assert cli.parse(["bnext", "quickstart"])[1] == {"workdir": "runs/quickstart", "seed": 0}


def test_a_missing_package_is_reported_with_its_extra(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    outcome = run("prepare", SMOKE, f"--config.data.directory={tmp_path}")
    refused(outcome, "prepare needs tensorflow-datasets, which is not installed; `pip install tensorflow-datasets`", "extra [train]")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "--checkpoint=x", "--", "-a.jpg"], {"checkpoint": "x", "files": ["-a.jpg"]}),
        (["predict", "a.jpg", "--checkpoint", "x"], {"checkpoint": "x", "files": ["a.jpg"]}),
        (["quickstart", "--seed", "-1"], {"seed": -1}),
        (["count", "-per_layer", "--model", "bnext_tiny"], {"per_layer": True, "model": ("bnext_tiny",)}),
        (["plan", SMOKE, "--topology=v5e:2x2", "--nofit"], {"fit": False}),
        (["plot", "comparison", "--output", "config.png"], {"output": "config.png"}),
        (["evaluate", "--checkpoint=~/run"], {"checkpoint": os.path.expanduser("~/run")}),
    ],
)
def test_flags_may_be_written_in_every_form_that_abseil_accepts(words, expected):
    _, given = cli.parse(["bnext", *words])
    assert given | expected == given


def test_a_field_of_a_users_own_config_class_is_a_flag(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\nfrom bnext_jax import config as c\n"
        "@dataclasses.dataclass\nclass Mine(c.Config):\n    note: str = c.free('')  # what it is for\n"
        "def get_config(): return Mine()\n"
    )
    words = ["bnext", "train", f"--config={tmp_path / 'mine.py'}", "--workdir=x", "--config.note=y"]
    assert cli.parse(words)[1]["config"].note == "y"
    assert "config.note=''" in cli.help_text(["train", words[2], "--help"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config(): return {}", "get_config() gives a dict, not a bnext_jax.Config"),
        ("import ml_collections\ndef get_config(): return ml_collections.ConfigDict()", "gives a ConfigDict, not a bnext_jax.Config"),
        ("def get_config(: pass", "mine.py"),
        ("from bnext_jax import nothing\ndef get_config(): pass", "cannot import name 'nothing'"),
    ],
)
def test_a_config_file_that_returns_no_config_is_refused(run, tmp_path, text, told):
    (tmp_path / "mine.py").write_text(text)
    for more in (["--workdir=x"], ["--help"]):
        refused(run("train", f"--config={tmp_path / 'mine.py'}", *more), told)


def test_parse_refuses_a_line_without_a_command():
    with pytest.raises(UserError, match="unknown command ''; one of: train, evaluate"):
        cli.parse(["bnext"])


def test_a_tilde_in_the_configurations_path_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("from bnext_jax import recipes\n\n\ndef get_config(form):\n    return recipes.digits_student(form)\n")
    _, arguments = cli.parse(["bnext", "train", "--config=~/mine.py:smoke", "--workdir=~/run"])
    assert arguments["config"].epochs == 2 and arguments["workdir"] == f"{tmp_path}/run"
