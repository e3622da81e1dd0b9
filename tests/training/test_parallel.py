"""The same training on one device, on eight devices, and on two and four real processes: replicated, sharded, with accumulation."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.commands.convert import convert
from bnext_jax.errors import UserError
from bnext_jax.io import checkpoint
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from bnext_jax.nn.normalise import normalise
from bnext_jax.nn.quantizers import SteSign
from bnext_jax.training import mesh
from bnext_jax.training.run import Run
from tests.helpers import parallel_process, torch_tools
from tests.helpers.launcher import free_port

SEED = 0  # with this seed no binarized value of the first step lies within 1e-5 of a threshold, see below
SAME = {"sharded": "whole", "accumulated": "whole", "single_sharded": "single"}  # case -> the case that it must equal


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The work directory of a convnext with random weights."""
    arguments = {"widths": (8,), "depths": (1,), "patch": 4}
    model = create_model("convnext", 10, rngs=nnx.Rngs(1), **arguments)
    _, params, batch_stats = split(model, training=False)
    described = {"model": {"name": "convnext", "num_classes": 10, "arguments": arguments}, "step": 0, "epoch": 0, "temperature": 1.0,
                 "preprocessing": None, "class_names": [], "config": None}  # fmt: skip
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    checkpoint.save_network(folder, params, batch_stats, described)
    return str(folder)


@pytest.fixture(scope="module")
def files(teacher, tmp_path_factory):
    """A PyTorch training checkpoint of a student and a PyTorch file of a teacher."""
    folder = tmp_path_factory.mktemp("files")
    convert(teacher, str(folder / "teacher.pth"))
    return [str(torch_tools.save_training(folder / "student.pth.tar", torch_tools.drawn())), str(folder / "teacher.pth")]


@pytest.fixture(scope="module")
def evaluated(files, digits, teacher):
    """The evaluations of the files by this process alone, after a round trip through JSON."""
    return json.loads(json.dumps(parallel_process.evaluations(files, digits, teacher)))


@pytest.fixture(scope="module")
def alone(digits, teacher):
    """{case: {name: array}}, trained on the one device of this process."""
    found = {}
    for case in ("whole", "synchronised", "single"):
        with jax.enable_x64(parallel_process.CASES[case][0] == "float64"):
            config = parallel_process.settings(case, SEED, digits, teacher)
            found[case] = parallel_process.train(config, parallel_process.CASES[case][-1], evaluates=case == "whole")
    return found


def test_no_value_that_is_binarized_lies_near_a_threshold(digits, teacher, monkeypatch):
    """Near a threshold, float32 rounding alone could flip a sign or the window |x| < 1.5 of a gradient."""
    run = Run(parallel_process.settings("single", SEED, digits, teacher), pathlib.Path("unused"))
    quantize, seen = SteSign.__call__, []
    monkeypatch.setattr(SteSign, "__call__", lambda self, x, shift: seen.append(x + shift) or quantize(self, x, shift))

    @jax.jit
    def margins(variables, images):
        data = run.config.data
        run.programs.network(variables, normalise(images, data.mean, data.std, jnp.float32), jnp.float32(1))
        return [(jnp.abs(x).min(), jnp.abs(jnp.abs(x) - 1.5).min()) for x in seen]

    found = margins({**run.state["params"], **run.state["batch_stats"]}, run.batches[0]["image"])
    assert len(found) == 5 and np.min(found) > 1e-5


@pytest.mark.parametrize(
    ("count", "devices", "cases"),
    [
        (1, 8, ("accumulated", "synchronised")),
        (2, 2, ("whole", "sharded", "single", "single_sharded")),
        (4, 1, ("whole", "sharded")),
    ],
)
def test_training_and_evaluation_do_not_depend_on_devices_and_processes(
    alone, evaluated, launcher, digits, teacher, files, tmp_path, count, devices, cases
):
    shared = (count, free_port(), devices, SEED, digits, teacher, ",".join(files), tmp_path, *cases)
    processes = [
        launcher.start((process, *shared), tmp_path / f"process{process}", module="tests.helpers.parallel_process")
        for process in range(count)
    ]
    assert [launcher.end(process) for process in processes] == [0] * count, (tmp_path / "process0.err").read_text()
    for case in cases:
        expected, found = alone[SAME.get(case, case)], dict(np.load(tmp_path / f"{case}.npz"))
        names = {name for name in found if not name.startswith("evaluation") and name not in ("held", "all-reduces")}
        assert len(names) > 150 and names <= expected.keys()
        single = case.startswith("single")
        for name in names:
            wanted = expected[name]
            # float32 results agree up to rounding, relative to the largest value of a tensor. Adam's first step is the learning rate (1e-3)
            # times the sign of the gradient. Rounding can flip the sign of a tiny gradient, so only the other parameters are compared.
            if single and "params" in name:
                gradient = np.abs(expected[name.replace("['params']", "['opt_state'][1].mu")])
                certain = gradient > 1e-2 * gradient.max()
                np.testing.assert_allclose(found[name][certain], wanted[certain], rtol=0, atol=1e-5, err_msg=name)  # learning rate: 1e-3
            else:
                tolerance = 2e-5 * max(np.abs(wanted).max(), 1e-3) if single else 1e-9
                np.testing.assert_allclose(found[name], wanted, rtol=0, atol=tolerance, err_msg=name)
        # batch-norm groups lie on one device, so one all-reduce carries all gradients, and at most three others carry the rest
        if case in ("whole", "single"):
            gradients, statistics = (
                sum(value.nbytes for name, value in found.items() if name.startswith(f"['{part}']")) for part in ("params", "batch_stats")
            )
            count, largest = found["all-reduces"]
            assert 1 <= count <= 4 and gradients <= largest <= gradients + statistics + 64
        if case == "whole":  # 50 images in batches of 16
            names = [name for name in expected if name.startswith("evaluation")]
            assert expected["evaluation examples"] == 50 and len(names) == 4
            for name in names:
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
        # on a shard axis of size two, each device holds half of every matrix and kernel, and all of every vector
        assert (found["held"] < 0.65 * expected["held"]) == (parallel_process.CASES[case][2] == 2)

    found = json.loads((tmp_path / "evaluations.json").read_text())
    expected = evaluated
    assert [one["model"] for one in expected] == ["bnext", "convnext"] and [one["step"] for one in expected] == [0, 0]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["examples"] == 50 and ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert {**ours, "loss": 0} == {**theirs, "loss": 0}


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("", (8, 1)), ("data=8", (8, 1)), ("shard=4", (2, 4)), ("data=2", (2, 4)), ("data=2,shard=4", (2, 4)), (" shard=8, data=1", (1, 8))],
)
def test_a_mesh_fills_the_devices(text, sizes):
    assert mesh.axis_sizes(text, 8) == sizes


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data=3,shard=2", "needs 6 devices, there are 8"), ("data=16", "needs 16 devices"), ("model=2", "not understood at 'model=2'"),
        ("data=2,data=4", "not understood at 'data=4'"), ("shard=0", "not understood"),
    ],
)  # fmt: skip
def test_a_mesh_that_does_not_fit_the_devices_is_refused(text, told):
    with pytest.raises(UserError, match=told):
        mesh.axis_sizes(text, 8)


def test_pieces_that_would_split_a_batch_norm_group_are_refused():
    mesh.check_batch("batch_size", 512, 64, 1, pieces=8)
    mesh.check_batch("batch_size", 512, 16, 8, pieces=4)
    for group, pieces in ((64, 16), (None, 2), (48, 2)):
        with pytest.raises(UserError, match=f"config.accumulate {pieces} would change the batch statistics"):
            mesh.check_batch("batch_size", 512, group, 1, pieces=pieces)
