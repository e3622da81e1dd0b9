"""The checkpoints of a run, being written: atomic, asynchronous, the newest few and the best kept."""

import json
import logging

import jax
from orbax.checkpoint import v1 as ocp

from bnext_jax.errors import MachineLost, UserError, one_line
from bnext_jax.io.checkpoint import checkpoints_folder, newest_whole, read, with_digests
from bnext_jax.training import cluster, mesh

log = logging.getLogger(__name__)


def _parts(state):
    return {
        "network": {"params": state["params"], "batch_stats": state["batch_stats"]},
        "training": {"step": state["step"], "opt_state": state["opt_state"]},
    }


def _drop_broken_metrics(root):
    """Removes each checkpoint's note of its top-1 that cannot be read: Orbax would refuse to open all of them."""
    for path in root.glob("*/metrics/metrics"):
        try:
            float(json.loads(path.read_text())["top1"])
        except (ValueError, TypeError, KeyError):
            log.warning("%s is damaged and removed; the checkpoint no longer counts among the best", path)
            path.unlink(missing_ok=True)


class Checkpoints:
    """The checkpoints of one run, being written. Use as a context manager: leaving it waits for the last save.

    Args:
      workdir: the run's folder. keep_latest, keep_best: how many are kept, by step and by top-1.
    """

    def __init__(self, workdir, keep_latest, keep_best):
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=lambda m: m["top1"], n=keep_best, keep_checkpoints_without_metrics=False)
        self.root = checkpoints_folder(workdir)
        cluster.agree(lambda: _drop_broken_metrics(self.root) if cluster.is_first() else None)
        self._manager = ocp.training.Checkpointer(
            self.root,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_latest), best]),
            cleanup_tmp_directories=True,
        )
        self._pending = None
        self._unreadable = []

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is MachineLost:
            return  # closing would wait for the process that is gone
        try:
            if kind is None:
                self.wait()
        finally:
            try:
                self._manager.close()
            except Exception:  # it raises a failed save's error once more, when that has already been told
                log.debug("closing %s", self.root, exc_info=True)

    def wait(self):
        """Waits for the save under way. Raises UserError if it could not be written."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._writing(pending.result)

    def _writing(self, write):
        try:
            return write()
        except Exception as error:  # tensorstore reports a full disk as ValueError or OSError
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError | TimeoutError):
                raise MachineLost(f"another process of the run ended during a save ({one_line(error, 160)}); start all again") from error
            raise UserError(
                f"a checkpoint could not be written to {self.root}: {one_line(error)}; free space or choose another --workdir"
            ) from error

    def save(self, step, state, metadata, top1=None):
        """Starts saving; returns when the arrays have been copied, so that `state` may be donated.

        Args:
          step: steps done. state: the whole training state. metadata: JSON data. top1: percent, if it was measured here.
        Raises:
          UserError: this or the previous save could not be written.
        """
        self.wait()
        parts = _parts(state)
        metadata = with_digests(parts, metadata)
        metrics = None if top1 is None else {"top1": float(top1)}
        overwrite = step in self._unreadable
        self._pending = self._writing(
            lambda: self._manager.save_checkpointables_async(
                step, parts, force=True, overwrite=overwrite, metrics=metrics, custom_metadata=metadata
            )
        )

    def steps(self):
        """Steps of the committed checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._manager.checkpoints]

    def restore(self, abstract_state):
        """(state, metadata) of the newest checkpoint that is whole, or None where there is none.

        abstract_state: the state's tree of jax.ShapeDtypeStruct with shardings. A damaged checkpoint is passed over
        with a warning, and its step will be saved again. Raises UserError where all are damaged.
        """

        def load(step):
            try:  # each reads by itself, but all the same steps: Orbax counts, and waits for, the others' operations
                return cluster.agree(lambda: read(self.root / str(step), wanted))
            except Exception:
                self._unreadable.append(step)
                raise

        wanted = _parts(abstract_state)
        steps = json.loads(cluster.texts(json.dumps(self.steps()))[0])
        if not steps:
            return None
        parts, metadata = newest_whole(steps, load, self.root)
        parts = jax.tree.map(lambda leaf, like: mesh.placed(leaf, like.sharding), parts, wanted)
        return {**parts["network"], **parts["training"]}, metadata
