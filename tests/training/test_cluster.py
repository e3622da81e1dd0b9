"""How the processes of a run find each other and agree. Tests with real processes: test_preemption.py and test_parallel.py."""

import json

import pytest

from bnext_jax.errors import Unreachable, UserError
from bnext_jax.training import cluster, preemption


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "are set without JAX_PROCESS_ID"),
        ({"JAX_PROCESS_ID": "0"}, "without JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "'two' and JAX_PROCESS_ID '0' must be whole",
        ),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "did not find each other"),
    ],
)
def test_incomplete_or_wrong_cluster_variables_are_reported(monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        cluster.join()


def as_process(monkeypatch, texts):
    """Simulates several processes: `cluster.texts` returns `texts`, with this process's own text in place of None."""
    monkeypatch.setattr(cluster, "texts", lambda text: [text if other is None else other for other in texts])


def test_an_error_in_one_process_is_raised_in_all(monkeypatch):
    def fails():
        raise UserError("no data here")

    as_process(monkeypatch, [None, '["", false]'])
    with pytest.raises(UserError, match=r"^no data here$"):
        cluster.agree(fails)
    as_process(monkeypatch, [None, '["no data here", false]'])
    with pytest.raises(UserError, match=r"^process 1 of 2 stopped: no data here$") as caught:
        cluster.agree(lambda: 5)
    assert type(caught.value) is UserError
    as_process(monkeypatch, [None, '["no bucket here", true]'])
    with pytest.raises(Unreachable, match=r"^process 1 of 2 stopped: no bucket here$"):
        cluster.agree(lambda: 5)
    as_process(monkeypatch, [None, '["", false]'])
    assert cluster.agree(lambda: 5) == 5


def test_settings_that_differ_between_processes_are_named(monkeypatch):
    facts = {"config.seed": 1, "commit": "abc", "images": [9, 3]}
    as_process(monkeypatch, [None, json.dumps(facts), json.dumps({**facts, "commit": "def", "images": [9, 4]})])
    with pytest.raises(
        UserError, match=r"processes 0 and 2 do not run the same: commit \('abc' and 'def'\), images \(\[9, 3\] and \[9, 4\]\)"
    ):
        cluster.check_equal(facts)
    as_process(monkeypatch, [None, json.dumps(facts)])
    cluster.check_equal(facts)


def failing():
    """Yields two good batches, then raises."""
    yield from ("a", "b")
    raise UserError("a worker died")


def test_failing_data_stop_one_process_at_once_and_several_processes_together(monkeypatch):
    def feed():
        return preemption.Feed(failing(), lambda: "blank", lambda value: value, preemption.Preemption())

    alone = feed()
    assert [next(alone), next(alone)] == [("a", 0), ("b", 0)]
    with pytest.raises(UserError, match="a worker died"):
        next(alone)
    monkeypatch.setattr(preemption.jax, "process_count", lambda: 2)
    ours, theirs = feed(), feed()
    assert [next(ours) for _ in range(4)] == [("a", 0), ("b", 0), ("blank", preemption.FAILED), ("blank", preemption.FAILED)]
    ours.check(4096 * preemption.STOP)  # 4096 devices ask to stop, and no process failed
    with pytest.raises(UserError, match="a worker died"):
        ours.check(preemption.FAILED + 3)
    with pytest.raises(UserError, match="another process of the run stopped, see its output"):
        theirs.check(preemption.FAILED)
