"""Switches and statistics of a layer's own: functions of the step that the state keeps; what is not yet binary is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io import checkpoint
from bnext_jax.io.load import load
from bnext_jax.io.logs import read_metrics
from bnext_jax.models import table
from bnext_jax.nn.variables import Switch
from bnext_jax.packed.file import read
from bnext_jax.packed.pack import pack
from tests.helpers import switched
from tests.helpers.checkpoints import saved_state
from tests.helpers.commands import refused

BINARY_FROM, BOUND_FROM = 5, 7  # the first steps in which the network is binary and has bounds: epoch 1 of 5 steps, and step 7


def statistics(steps):
    """(largest, bounds) after so many steps, by the formulas of Tiny's docstring, in float64."""
    largest, bounds = np.zeros(3), -np.ones(3)
    for step in range(steps):
        groups = np.abs(switched.images(step)).reshape(6, 2 * 8 * 8, 3)
        largest = 0.75 * largest + 0.25 * groups.max(1).mean(0)
        if step == BOUND_FROM:
            bounds = largest
    return largest, bounds


@pytest.mark.parametrize("case", ["float32", "float64", "pieces"])
@pytest.mark.parametrize("steps", [5, 6, 7, 8, 12])
def test_after_n_steps_the_state_has_the_switches_and_statistics_of_the_formulas(case, steps):
    with jax.enable_x64(case == "float64"):
        _, fresh, state, seen, compilations = switched.trained(case, steps)
        assert "temperature" not in seen[-1]
        assert fresh["conv/quantizes"] and fresh["bounded"]  # a fresh network is on
        stats = state["batch_stats"]
        for path, first in {"conv/quantizes": BINARY_FROM, "bounded": BOUND_FROM}.items():
            assert stats[path].dtype == jnp.bool_ and stats[path].shape == ()
            assert bool(stats[path]) == (steps - 1 >= first), path  # the state keeps the switch of its last step
        largest, bounds = statistics(steps)
        tolerance = 1e-14 if case == "float64" else 3e-7
        np.testing.assert_allclose(stats["largest"], largest, rtol=tolerance)
        np.testing.assert_allclose(stats["bounds"], bounds, rtol=tolerance)
        assert compilations == 1


def test_the_forward_pass_of_a_step_uses_the_steps_switches_not_the_stored_ones():
    network, fresh, _, seen, _ = switched.trained("float32", 1)

    def loss(binary):
        variables = {**fresh, "conv/quantizes": jnp.bool_(binary), "bounded": jnp.bool_(False)}
        logits, _ = network(variables, switched.images(0).astype(np.float32))
        chosen = jax.nn.log_softmax(logits)[np.arange(switched.BATCH), switched.labels(0)]
        return -float(chosen.mean())

    assert seen[0]["loss"] == pytest.approx(loss(binary=False), rel=1e-5) and abs(loss(binary=False) - loss(binary=True)) > 1e-3


@pytest.mark.parametrize(("case", "stop"), [("float32", 3), ("float32", 6), ("pieces", 6)])
def test_a_run_that_is_cut_between_two_steps_ends_with_the_same_bits(case, stop):
    _, _, whole, _, _ = switched.trained(case, 9)
    _, _, half, _, _ = switched.trained(case, stop)
    kept = jax.tree.map(np.asarray, half)  # as a checkpoint does
    _, _, rest, _, compilations = switched.trained(case, 9 - stop, start=jax.tree.map(jnp.asarray, kept), first=stop)
    assert compilations == 1
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(whole), jax.tree.leaves(rest), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), path


@pytest.mark.parametrize("case", ["float32", "pieces"])
def test_a_statistic_that_a_layer_leaves_alone_keeps_its_bits(case):
    set_once, later = (switched.trained(case, steps)[2]["batch_stats"]["bounds"] for steps in (8, 12))
    assert np.asarray(set_once).tobytes() == np.asarray(later).tobytes() and (np.asarray(set_once) > 1).all()


def test_several_devices_give_the_switches_and_statistics_of_one(launcher, tmp_path):
    process = launcher.start((tmp_path, 2, 8, "sharded", "sharded pieces"), tmp_path / "process", module="tests.helpers.switched")
    assert launcher.end(process) == 0, (tmp_path / "process.err").read_text()
    for case, alone in {"sharded": "float32", "sharded pieces": "float64"}.items():
        with jax.enable_x64(alone == "float64"):
            expected = switched.trained(alone, 8)[2]["batch_stats"]
            found = dict(np.load(tmp_path / f"{case}.npz"))
            largest, bounds = statistics(8)
            tolerance = 1e-14 if alone == "float64" else 3e-7
            np.testing.assert_allclose(found["largest"], largest, rtol=tolerance)
            np.testing.assert_allclose(found["bounds"], bounds, rtol=tolerance)
            for path in ("conv/quantizes", "bounded"):
                assert found[path].dtype == bool and found[path] == expected[path]


@pytest.mark.parametrize(("unit", "since"), [("epochs", 1), ("step", -1), ("step", 0.5), ("epoch", 2**31)])
def test_a_switch_that_could_never_be_set_is_refused(unit, since):
    with pytest.raises(UserError, match=rf"got unit '{unit}', since {since}"):
        Switch(unit=unit, since=since)


@pytest.fixture
def tiny(monkeypatch, run, digits, tmp_path):
    """tiny(command, words...) runs a command; the table has the network "tiny", binary from epoch 1 and bounded from step 30 on."""
    monkeypatch.setitem(table.MODELS, "tiny", table.Entry(switched.Tiny, switched.TinyConfig, {"binary_from": 1, "bound_from": 30}))
    words = ["--config=configs/digits_student.py:smoke", f"--config.data.directory={digits}", "--config.tensorboard=False",
             "--config.model.name=tiny", "--config.model.widths=()", "--config.batch_norm_group=16",
             "--config.temperature.exact_from=None"]  # fmt: skip

    def call(command, *more):
        return run(command, *(words if command == "train" else ()), *more)

    return call


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_run_says_its_phase_and_is_packed_only_when_it_is_binary(tiny, tmp_path):
    whole = tiny("train", f"--workdir={tmp_path}/whole")[1]
    assert whole["binary"] is True and "temperature" not in whole and "temperature" not in read_metrics(tmp_path / "whole")[0]
    cut = f"--workdir={tmp_path}/cut"
    code, result, _ = tiny("train", cut, "--config.stop_at_step=22")
    assert (code, result["binary"], result["steps"]) == (0, False, 22)
    (line,) = read_metrics(tmp_path / "cut")
    assert line["binary_share"] == 0 and line["flip_ratio"] > 0
    model, metadata = checkpoint.load_network(tmp_path / "cut")
    assert metadata["exact_signs"] is False and metadata["temperature"] is None and metadata["config"]["temperature"] is None
    assert not model.conv.quantizes[...] and not model.bounded[...] and (np.asarray(model.bounds[...]) == -1).all()
    evaluated = tiny("evaluate", f"--checkpoint={tmp_path}/cut")[1]
    assert evaluated["binary"] is False and evaluated["top1"] == result["top1"]
    outcome = tiny("pack", f"--checkpoint={tmp_path}/cut", f"--output={tmp_path}/cut.bnext")
    refused(outcome, f"the weights of {tmp_path}/cut are not binary yet: its network binarizes them from epoch 1 on")

    for stop in (27, 0):
        assert tiny("train", cut, f"--config.stop_at_step={stop}")[0] == 0
    (step, ours), (whole_step, theirs) = saved_state(tmp_path / "cut"), saved_state(tmp_path / "whole")
    assert step == whole_step == 44 and ours.keys() == theirs.keys() and "['network']['batch_stats']['bounded']" in ours
    for key in ours:
        assert ours[key].tobytes() == theirs[key].tobytes(), key
    assert read_metrics(tmp_path / "cut")[-1]["binary_share"] == 1
    model, metadata = load(tmp_path / "cut")
    assert metadata["exact_signs"] is True
    assert model.conv.quantizes[...] and model.bounded[...] and (np.asarray(model.bounds[...]) > 0).all()
    assert tiny("evaluate", f"--checkpoint={tmp_path}/cut")[1]["binary"] is True


def test_a_packed_file_has_no_switches_and_gives_a_network_with_all_of_them_on(tiny, tmp_path):
    assert tiny("train", f"--workdir={tmp_path}/run")[0] == 0
    code, result, _ = tiny("pack", f"--checkpoint={tmp_path}/run", f"--output={tmp_path}/run.bnext")
    assert code == 0 and result["check"]["difference"] < 1e-5
    assert load(tmp_path / "run.bnext")[1]["temperature"] is None
    assert read(tmp_path / "run.bnext")[1].keys() >= {"bounds", "largest", "conv/kernel"}
    assert not [name for name in read(tmp_path / "run.bnext")[1] if "quantizes" in name or "bounded" in name]
    model, _ = load(tmp_path / "run.bnext", form="float")
    switches = jax.tree.leaves(nnx.state(model, Switch))
    assert len(switches) == 2 and all(switch.dtype == jnp.bool_ and bool(switch) for switch in switches)
    pack(model, load(tmp_path / "run")[1])  # it is binary
