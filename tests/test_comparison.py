"""The runs of benchmarks/comparison.py: equal cost, valid configurations, and the order in which they are trained."""

import dataclasses
import json

import pytest

from benchmarks import comparison, comparison_latent, comparison_table
from benchmarks.comparison_runs import ANCESTORS, ENTRIES, Plan, own
from bnext_jax import recipes_zoo
from bnext_jax.analysis import count
from bnext_jax.models.table import abstract_model

PLAN = Plan(10_000, 12, "runs/comparison")
TEACHERS, REAL = {"small", "wide"}, {"small", "wide", "twin"}


def test_every_binary_network_costs_as_many_binary_operations_within_ten_percent():
    costs = {key: told["binary_macs"] for key, told in comparison.counted(PLAN).items() if key not in REAL}
    # stem 14x14; blocks 24 to 48, 48, 48 to 96, 96: 3x3 and 1x1 convolutions, written out
    expected = 196 * (9 * 24**2 + 2 * 24**2 + 9 * 48**2 + 48**2) + 49 * (9 * 48**2 + 2 * 48**2 + 9 * 96**2 + 96**2)
    assert costs["bnext"] == expected == 11_515_392
    assert set(costs) == set(ENTRIES) - REAL and {*ANCESTORS} < set(costs)
    assert all(abs(cost / expected - 1) <= 0.1 for cost in costs.values()), costs


def test_the_real_twin_has_the_multiplications_of_the_ancestors_frame():
    model = abstract_model("resnet", 10, **ENTRIES["twin"].steps(PLAN, 0)[0].model.arguments())
    macs = count.measure("resnet", model, (28, 28))["macs"]
    frame = comparison.counted(PLAN)["bnn18"]["binary_macs"]
    assert macs["binary"] == 0 and abs((macs["float"] - 196 * 49 * 3 * 24 - 10 * 48) / frame - 1) < 0.05  # stem and classifier aside


@pytest.mark.parametrize("epochs", [9, 12])
@pytest.mark.parametrize("key", ENTRIES)
def test_all_runs_have_one_recipe_but_for_what_their_row_is_about(key, epochs):
    entry = ENTRIES[key]
    made = [config.check() for config in entry.steps(dataclasses.replace(PLAN, epochs=epochs), 1)]
    assert sum(config.epochs for config in made) == epochs and {config.seed for config in made} == {1}
    for config in made:
        assert (config.data.train_split, config.data.train_transform, config.data.eval_split) == (
            "train[:10000]",
            "pad_crop(2)|flip",
            "test",
        )
        assert config.batch_size == 64 and config.data.name == "fashion_mnist"
        if entry.group != "own recipe":
            found = config.optimizer
            assert (found.name, found.learning_rate, found.schedule, found.clip_norm) == ("adamw", 5e-3, "cosine", 5.0)
        taught = {"runs/comparison/" + need + "-0" for need in entry.needs}
        assert (
            set(config.distill.teacher_names()) == taught if entry.group != "own recipe" else set(config.distill.teacher_names()) <= taught
        )
    assert entry.against in (*ENTRIES, "") and set(entry.needs) <= REAL


def test_an_own_recipe_is_the_published_one_shortened_to_the_epochs_of_the_table():
    (config,) = ENTRIES["own_birealnet18"].steps(PLAN, 0)
    assert (config.optimizer.name, config.optimizer.schedule, config.optimizer.ahead, config.label_smoothing) == ("adam", "linear", 0, 0.1)
    first, second = ENTRIES["own_reactnet18"].steps(PLAN, 0)
    assert (first.model.extra["binary_weights"], second.model.extra.get("binary_weights"), first.epochs) == (False, None, 6)
    assert second.init == "runs/comparison/own_reactnet18-0-step0" and second.distill.form == "teacher"
    (stepped,) = own("bnn18", recipes_zoo.bnn18)(PLAN, 0)
    assert (stepped.optimizer.step_epochs, stepped.optimizer.decay_until) == ((4, 7, 11), 7)  # 30, 60, 90 and 60 of 100, in 12 epochs


def done(**top1):
    return {(key, 0): {"run": key, "seed": 0, "top1": top1.get(key, 70.0)} for key in ENTRIES}


def test_teachers_come_before_their_students_and_close_runs_get_more_seeds():
    first = [key for key, seed in comparison.wanted({}) if seed == 0]
    assert sorted(first) == sorted(ENTRIES)
    assert all(first.index(need) < first.index(key) for key, entry in ENTRIES.items() for need in entry.needs)
    found = comparison.wanted(
        done(bnext=80.0, no_elm=79.5, twin=80.9, pokebnn=82.0, early=65.0, hard=85.0, birealnet18=60.0, own_birealnet18=60.2)
    )
    again = ["bnext", "no_elm", "hard", "forgetful", "twin", "birealnet18", "own_birealnet18"]
    others = [key for key in ("own_meliusnet", "own_reactnet18") for key in (key, ENTRIES[key].against)]  # both 70: close to one another
    assert sorted(found) == sorted((key, seed) for key in again + others for seed in (1, 2))


def test_a_row_has_mean_spread_and_the_error_of_its_difference():
    base = {(key, seed): {"run": key, "top1": top1, "binary": True} for key, values in
            {"bnext": (80.0, 81.0, 82.0), "no_elm": (79.0, 79.0, 82.0)}.items() for seed, top1 in enumerate(values)}  # fmt: skip
    rows = {key: comparison_table.row(key, base, {}, {}) for key in ("bnext", "no_elm")}
    assert (rows["bnext"]["top1"], rows["bnext"]["spread"]) == (81.0, 1.0) and rows["no_elm"]["spread"] == 1.73
    noise = comparison_table.pooled([*rows.values(), {"values": [70.0]}])
    assert noise == round(((1 + 0 + 1 + 1 + 1 + 4) / 4) ** 0.5, 3)  # squares of the distances to the two means; 3 - 1 + 3 - 1 + 1 - 1
    told = comparison_table.compared(rows["no_elm"], rows["bnext"], "bnext", noise)
    assert (told["difference"], told["error"]) == (-1.0, round(2**0.5 * (1 / 3 + 1 / 3) ** 0.5, 2))
    assert comparison_table.pooled([{"values": [70.0]}]) is None
    assert comparison_table.compared(rows["no_elm"], rows["bnext"], "bnext", None)["error"] is None


def test_the_manuals_table_shows_a_dash_for_what_was_not_measured():
    counted = {"parameters": 1234, "ops": 5_670_000.0}
    lines = {("bnext", seed): {"run": "bnext", "top1": 80.0 + seed, "binary": True} for seed in range(2)}
    one = comparison_table.row("bnext", lines, counted, {})
    two = {**one, "group": "ablation", "title": "x", "difference": -0.5, "error": None, "spread": None, "step_seconds": 0.1234,
           "bytes_packed": 45678, "milliseconds": {"engine": 0.251, "xla": 1.5}}  # fmt: skip
    text = comparison_table.markdown({"bnext": one, "x": two}).splitlines()
    assert "| BNext, narrow | 80.50 ± 0.71 | 2 |  | 1,234 | - | 5.67 | - | - |" in text
    assert "| x | 80.50 | 2 | -0.50 | 1,234 | 45,678 | 5.67 | 0.123 | 0.25 (engine), 1.50 (xla) |" in text


def test_a_teacher_trained_again_may_differ_by_less_than_a_point(monkeypatch):
    monkeypatch.setattr(comparison, "one_run", lambda plan, key, seed: {"run": key, "seed": seed, "top1": 86.5})
    assert comparison.teacher(PLAN, "small", 86.48) == 86.5
    with pytest.raises(SystemExit, match=r"runs/comparison/small-0 has 86\.5 % top-1, its line in comparison\.jsonl says 87\.6 %"):
        comparison.teacher(PLAN, "small", 87.6)


def test_the_logs_of_latent_weights_are_read_epoch_by_epoch(tmp_path):
    lines = [{"epoch": i, "flip_ratio": 0.12345 / i, "grad_norm/latent": 7.0, "update_norm/latent": 0.5 * i} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 3, "test_top1": 80.0}]))
    assert comparison_latent.logged(tmp_path) == {
        "flip_ratio": [0.123, 0.0617],
        "grad_norm/latent": [7.0, 7.0],
        "update_norm/latent": [0.5, 1.0],
    }
