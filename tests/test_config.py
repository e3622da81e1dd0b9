"""The configuration: refused values, and the fields that may change when a run resumes."""

import dataclasses
import math

import pytest

from bnext_jax import config as c
from bnext_jax.config_json import changed_fields, flat_json, from_json, to_json
from bnext_jax.errors import UserError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": c.ModelConfig(name="vit")}, "config.model.name is 'vit'; one of: bnext_tiny"),
        ({"epochs": 0}, "config.epochs is 0"),
        ({"seed": -1}, "config.seed is -1; it must be 0 or more"),
        ({"seed": 2**32}, "config.seed is 4294967296; it may be at most 4294967295"),  # JAX would take it for the seed 0
        ({"stop_at_step": 2**31}, "config.stop_at_step is 2147483648; it may be at most 2147483647"),
        ({"optimizer": c.OptimizerConfig(warmup_epochs=-1)}, "config.optimizer.warmup_epochs is -1; it must be 0 or more"),
        (
            {"model": c.ModelConfig(name="bnext", widths=(8, 2**63))},
            r"config.model.widths is \(8, 9223372036854775808\); it may be at most",
        ),
        ({"data": c.DataConfig(threads=10**6)}, "config.data.threads is 1000000; it may be at most 1024"),
        ({"optimizer": c.OptimizerConfig(learning_rate=math.nan)}, "config.optimizer.learning_rate is nan, which is no number"),
        ({"batch_size": 64, "batch_norm_group": 48}, "64 does not divide into groups of config.batch_norm_group 48"),
        ({"precision": "float16"}, "config.precision is 'float16'"),
        ({"distill": c.DistillConfig(main="a", form="sum")}, "config.distill.form is 'sum'"),
        ({"distill": c.DistillConfig(assistants=("a",))}, "without config.distill.main"),
        ({"distill": c.DistillConfig(kl_weight=2.0)}, "kl_weight is 2.0, but only the form labels reads it"),
        (
            {"distill": c.DistillConfig(form="labels", attention_weight=30.0)},
            "form is labels, but there is no config.distill.main",
        ),
        ({"distill": c.DistillConfig(main="a"), "label_smoothing": 0.1}, "form=product_of_means has no labels; leave it out"),
        ({"optimizer": c.OptimizerConfig(step_factor=0.5)}, "step_factor is set, but only the schedule steps reads it"),
        ({"distill": c.DistillConfig(main="a", form="labels", attention_weight=-1.0)}, "attention_weight is -1.0; it must be 0 or more"),
        ({"optimizer": c.OptimizerConfig(name="lamb")}, "config.optimizer.name is 'lamb'; one of: adamw, adam, radam, sgd"),
        ({"optimizer": c.OptimizerConfig(schedule="wsd")}, "config.optimizer.schedule is 'wsd'; one of: bnext, cosine, linear, steps"),
        ({"optimizer": c.OptimizerConfig(clip_norm=0.0)}, "config.optimizer.clip_norm is 0.0; it must be positive"),
        ({"optimizer": c.OptimizerConfig(decay_rest=-1e-3)}, "config.optimizer.decay_rest is -0.001; it must be 0 or more"),
        ({"optimizer": c.OptimizerConfig(step_epochs=(3,))}, "step_epochs is set, but only the schedule steps reads it"),
        ({"optimizer": c.OptimizerConfig(schedule="cosine", ahead=1)}, "ahead is set, but only the schedule linear reads it"),
        ({"optimizer": c.OptimizerConfig(schedule="steps", step_epochs=(3, 3))}, "the epochs must rise"),
        ({"epochs": 5, "optimizer": c.OptimizerConfig(schedule="linear")}, "warmup_epochs is 5, and the schedule linear ends at epoch 5"),
        ({"distill": c.DistillConfig(form="teacher")}, "form is teacher, but there is no config.distill.main"),
        ({"distill": c.DistillConfig(main="a", form="labels", kl_weight=0.0)}, "so the teacher has no effect"),
        ({"optimizer": c.OptimizerConfig(name="sgd", beta2=0.5)}, "beta2 is set, but sgd has no second moment"),
        ({"optimizer": c.OptimizerConfig(learning_rate=math.inf)}, "learning_rate is inf; it must be a finite number"),
        ({"epochs": 5, "optimizer": c.OptimizerConfig(schedule="linear", warmup_epochs=0, ahead=5)}, "must be less than the 5 epochs"),
        ({"label_smoothing": 1.0}, "config.label_smoothing is 1.0; it is a share of a label"),
        ({"init_fresh_latent": True}, "config.init_fresh_latent is set without config.init"),
        ({"temperature": c.TemperatureConfig(exact_from=1.5)}, "exact_from is 1.5"),
        ({"epochs": 3, "temperature": c.TemperatureConfig(exact_from=0.7)}, "leaves no whole epoch of 3 with exact signs"),
        ({"temperature": c.TemperatureConfig(decay=0.0)}, "decay is 0.0"),
        ({"data": c.DataConfig(std=(1.0, 0.0, 1.0))}, "config.data.std"),
    ],
)
def test_impossible_values_are_refused_with_the_name_of_the_field(change, message):
    with pytest.raises(UserError, match=message):
        c.Config(**change).check()


def test_every_whole_number_of_the_configuration_has_a_largest_value():
    def fields(part, path=()):
        for field in dataclasses.fields(part):
            if dataclasses.is_dataclass(value := getattr(part, field.name)):
                yield from fields(value, (*path, field.name))
            elif field.type in (int, int | None):
                yield (*path, field.name)

    names = list(fields(c.Config()))
    assert len(names) > 15 and ("optimizer", "warmup_epochs") in names and ("model", "gate_bits") in names
    for *parts, name in names:
        config = part = c.Config()
        for inner in parts:
            part = getattr(part, inner)
        setattr(part, name, 2**63)
        with pytest.raises(UserError, match=rf"config\.{'.'.join((*parts, name))} is 9223372036854775808; it may be at most"):
            config.check()


def test_a_checked_configuration_is_read_only_in_all_its_parts():
    config = c.Config().check()
    for part, name in ((config, "epochs"), (config.optimizer, "learning_rate"), (config.data, "threads")):
        with pytest.raises(AttributeError, match="read-only"):
            setattr(part, name, 1)


def test_only_fields_that_define_the_run_count_as_changed():
    saved = to_json(c.Config())
    other = c.Config(seed=1, tensorboard=False, eval_every_epochs=3, data=c.DataConfig(threads=9, train_transform="flip"))
    assert changed_fields(saved, other) == ["config.data.train_transform (was '', now 'flip')", "config.seed (was 0, now 1)"]
    assert changed_fields(saved, c.Config()) == []
    nested = c.Config(model=c.ModelConfig(extra={"stages": ((1, 3), (6, 5))}))
    assert changed_fields(to_json(nested), nested) == []


def test_fields_missing_in_an_older_saved_config_have_their_defaults():
    saved = to_json(c.Config(seed=5))
    del saved["init"], saved["distill"], saved["tensorboard"]
    saved["model"]["start_from"] = ""  # a field of an older version
    assert from_json(saved) == c.Config(seed=5)
    assert changed_fields(saved, c.Config(seed=5)) == []
    changed = c.Config(seed=5, init="a")
    assert changed_fields(saved, changed) == ["config.init (was '', now 'a')"]


def test_a_models_arguments_are_those_that_differ_from_the_defaults():
    assert c.ModelConfig(name="bnext", widths=(8, 16), elm_attention=False, extra={"a": 1}).arguments() == {
        "a": 1,
        "widths": (8, 16),
        "elm_attention": False,
    }


def test_every_field_says_whether_it_may_change_on_resume():
    def fields(cls):
        for field in dataclasses.fields(cls):
            yield field
            if dataclasses.is_dataclass(field.type):
                yield from fields(field.type)

    assert all("resume" in field.metadata for field in fields(c.Config))


def test_a_configuration_is_restored_from_its_json_form():
    config = c.Config(
        model=c.ModelConfig(name="bnext", widths=(8, 16), stem_stride=2), distill=c.DistillConfig(main="a", assistants=("b",))
    )
    assert from_json(to_json(config)) == config


def teacher(**fields):
    return c.Config(model=c.ModelConfig(name="convnext", extra={"widths": [8], "depths": [1]}), **fields)


def test_a_network_without_a_temperature_has_none_in_its_checked_configuration():
    assert teacher().check().temperature is None and c.Config().check().temperature == c.TemperatureConfig(decay=0.9, exact_from=None)
    checked = teacher().check()
    assert to_json(checked)["temperature"] is None and flat_json(checked)["config.temperature"] is None
    assert "config.temperature.decay" not in flat_json(checked)
    again = dataclasses.replace(checked, batch_size=64).check()
    assert again.temperature is None and from_json(to_json(checked)) == checked
    assert changed_fields(to_json(checked), again) == ["config.batch_size (was 512, now 64)"]


@pytest.mark.parametrize("old", [c.TemperatureConfig(), c.TemperatureConfig(decay=0.8), c.TemperatureConfig(exact_from=0.5)])
def test_a_temperature_that_older_versions_saved_for_it_is_no_changed_field(old):
    saved = to_json(teacher(temperature=old))
    assert saved["temperature"]["decay"] == old.decay
    assert changed_fields(saved, teacher().check()) == [] and from_json(saved).check().temperature is None


def test_a_run_that_changes_to_a_network_with_a_temperature_names_both_fields():
    assert changed_fields(to_json(teacher().check()), c.Config().check()) == [
        "config.model.name (was 'convnext', now 'bnext_tiny')",
        "config.model.extra (was {'widths': [8], 'depths': [1]}, now {})",
        "config.temperature (was None, now TemperatureConfig(decay=0.9, exact_from=None))",
    ]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            teacher(temperature=c.TemperatureConfig(decay=0.8)),
            "decay is 0.8, but convnext takes no temperature; leave it at its default, 0.9",
        ),
        (
            teacher(temperature=c.TemperatureConfig(exact_from=0.5)),
            "exact_from is 0.5, but convnext takes no .*; leave it at its default, None",
        ),
        (c.Config(temperature=None), "config.temperature is None, but bnext_tiny takes a temperature; leave the field out"),
    ],
)
def test_a_temperature_that_does_not_fit_the_network_is_refused(config, told):
    with pytest.raises(UserError, match=rf"config\.temperature.*{told}" if "bnext" not in told else told):
        config.check()
