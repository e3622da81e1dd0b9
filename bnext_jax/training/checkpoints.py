"""Writes the checkpoints of a run, asynchronously and atomically, and keeps the newest few and the best few.

io.checkpoint defines the format and reads checkpoints.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bnext_jax.errors import MachineLost, Unreachable, UserError, one_line
from bnext_jax.io import buckets
from bnext_jax.io.checkpoint import checkpoints_folder, newest_whole, read, with_digests
from bnext_jax.io.paths import Path
from bnext_jax.training import cluster, mesh

log = logging.getLogger(__name__)


def _parts(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Splits the training state into the parts of a checkpoint; evaluation loads only "network"."""
    return {
        "network": {"params": state["params"], "batch_stats": state["batch_stats"]},
        "training": {"step": state["step"], "opt_state": state["opt_state"]},
    }


def _drop_broken_metrics(root: Path) -> None:
    """Removes damaged metrics files (top-1 of a checkpoint). A single one would make Orbax refuse to open all checkpoints."""
    for path in root.glob("*/metrics/metrics"):
        try:
            float(json.loads(path.read_text())["top1"])
        except (ValueError, TypeError, KeyError):
            log.warning("%s is damaged and removed; the checkpoint no longer counts among the best", path)
            path.unlink(missing_ok=True)


class Checkpoints:
    """Writes and restores the checkpoints of one run. Use as a context manager: leaving it waits for the last save.

    Args:
      workdir: the run's folder.
      keep_latest: number of newest checkpoints to keep.
      keep_best: number of checkpoints with the highest top-1 to keep.
      check: called before each save; it raises if this run may not write any more.
    Attributes:
      root: folder of the checkpoints.
    """

    def __init__(self, workdir: os.PathLike | str, keep_latest: int, keep_best: int, check: Callable[[], None] = lambda: None) -> None:
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=lambda m: m["top1"], n=keep_best, keep_checkpoints_without_metrics=False)
        self.root = checkpoints_folder(workdir)
        cluster.agree(lambda: buckets.answered(self.root, lambda: _drop_broken_metrics(self.root)) if cluster.is_first() else None)
        self._manager = buckets.answered(
            self.root,
            lambda: ocp.training.Checkpointer(
                self.root,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_latest), best]),
                cleanup_tmp_directories=True,
            ),
        )
        self._check = check
        self._pending: Any = None  # Orbax's handle of the save in flight
        self._unreadable: list[int] = []  # steps of damaged checkpoints, which a later save overwrites

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is MachineLost:
            return  # close() would wait forever for the process that ended
        try:
            if kind is None:
                self.wait()
        finally:
            try:
                buckets.patient(self.root, self._manager.close)
            except Exception:  # close() raises the error of a failed save again; it is already reported
                log.debug("closing %s", self.root, exc_info=True)

    def wait(self) -> None:
        """Waits for the save in flight.

        Raises:
          UserError: the checkpoint could not be written.
          Unreachable: the bucket does not answer or refuses.
          MachineLost: another process ended during the save.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._writing(pending.result)

    def _writing(self, write: Callable[[], Any]) -> Any:
        """Returns write(); turns its exceptions into UserError or MachineLost."""
        try:
            return buckets.patient(self.root, write)
        except Unreachable:
            raise
        except Exception as error:  # TensorStore reports a full disk as ValueError or OSError
            if jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError | TimeoutError):
                raise MachineLost(
                    f"another process of the run ended during a save ({one_line(error, 160)}); start all processes again"
                ) from error
            told = f"a checkpoint could not be written to {self.root}: {one_line(error)}"
            if self.root.bucket:  # Orbax's threads go on trying, so the process cannot end in the usual way
                raise Unreachable(f"{told}; {buckets.ADVICE}") from error
            raise UserError(f"{told}; free space or choose another --workdir") from error

    def save(self, step: int, state: Mapping[str, Any], metadata: Mapping[str, Any], top1: float | None = None) -> None:
        """Starts a save. Returns as soon as the arrays are copied, so that the caller may donate `state` to the next step.

        Args:
          step: number of finished steps.
          state: the whole training state.
          metadata: JSON data that describes the checkpoint, see training.run.Run.metadata.
          top1: percent, if the run evaluated after this step.
        Raises:
          UserError: this save or the previous one could not be written.
          Unreachable: the bucket does not answer or refuses.
          MachineLost: another process ended during a save.
        """
        self.wait()
        cluster.agree(self._check)
        parts = _parts(state)
        metadata = with_digests(parts, metadata)
        metrics = None if top1 is None else {"top1": float(top1)}
        overwrite = step in self._unreadable
        self._pending = self._writing(
            lambda: self._manager.save_checkpointables_async(
                step, parts, force=True, overwrite=overwrite, metrics=metrics, custom_metadata=metadata
            )
        )

    def steps(self) -> list[int]:
        """Returns the steps of the committed checkpoints, ascending."""
        return [checkpoint.step for checkpoint in self._manager.checkpoints]

    def restore(self, abstract_state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Loads the newest readable checkpoint.

        Skips a damaged checkpoint with a warning; a later save of that step overwrites it.

        Args:
          abstract_state: the training state as jax.ShapeDtypeStruct with shardings.
        Returns:
          (state, metadata), the state on the mesh; None if there is no checkpoint.
        Raises:
          UserError: there are checkpoints, but all are damaged.
        """

        def load(step):
            # Each process reads the files by itself, but all processes must try the same steps: Orbax counts the operations of each
            # process, and a process waits for the operations of the others.
            try:
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
