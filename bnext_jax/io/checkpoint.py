"""Checkpoints with Orbax v1: atomic, asynchronous, the newest few and the best kept, each describing itself.

A work directory's `checkpoints/STEP` holds "network" (parameters and statistics) and "training" (step, optimiser), and
JSON metadata: the model's name and arguments, temperature, step, epoch, preprocessing, class names, and the sha256 of
both parts, because a flipped byte on disk would otherwise load in silence.
"""

import concurrent.futures
import functools
import hashlib
import json
import logging
import shutil

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from bnext_jax.errors import MachineLost, UserError, one_line
from bnext_jax.models import abstract_model
from bnext_jax.nn import network as state_lib
from bnext_jax.train import cluster, mesh

log = logging.getLogger(__name__)
FOLDER = "checkpoints"


@functools.cache
def _gather(mesh):
    """One jitted function a mesh: another for each array would compile at each save."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def on_host(leaf):
    """An array on the host, also where other processes hold parts of it; then all processes must call it."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = _gather(leaf.sharding.mesh)(leaf)
    return np.ascontiguousarray(leaf)


def comparable(tree):
    """The beginning of digest(tree), to be compared between processes; "" where there is one alone, which need not spend the time."""
    return digest(tree)[:16] if jax.process_count() > 1 else ""


def digest(tree):
    """sha256 over paths, shapes, types and bytes of all arrays of a tree, as hexadecimal text; all processes must call it."""
    leaves = [(path, on_host(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]

    def of_leaf(item):
        path, array = item
        head = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode()
        return hashlib.sha256(head + hashlib.sha256(array.reshape(-1).view(np.uint8)).digest()).digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return hashlib.sha256(b"".join(pool.map(of_leaf, leaves))).hexdigest()


def _absolute(path):
    """Orbax takes absolute paths only; what lies in a bucket is."""
    return epath.Path(path) if "://" in str(path) else epath.Path(path).absolute()


def _root(workdir):
    return _absolute(workdir) / FOLDER


def _parts(state):
    return {
        "network": {"params": state["params"], "batch_stats": state["batch_stats"]},
        "training": {"step": state["step"], "opt_state": state["opt_state"]},
    }


def _described(path):
    """The metadata of one checkpoint. Raises ValueError where there is none: Orbax takes a damaged description for an empty one."""
    metadata = ocp.checkpointables_metadata(path).custom_metadata
    if not metadata or "model" not in metadata or "sha256" not in metadata:
        raise ValueError(f"the description in {path} is damaged")
    return metadata


def _alone():
    """Orbax's context in which this process reads without the others."""
    context, process = ocp.Context(), jax.process_index()
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = process
        context.multiprocessing.active_processes = {process}
        context.multiprocessing.barrier_sync_key_prefix = f"alone_{process}"
    return context


def _load(path, abstract):
    """The parts named in `abstract`, on one of this process's devices, and the metadata of one checkpoint, its bytes verified.

    Raises whatever a damaged one makes Orbax raise. Processes do not wait for each other here, so that each may fail by itself.
    """
    metadata = _described(path)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    local = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract)
    # a network keeps the types that it was saved with: the teacher of a float64 run may be float32
    stored = ocp.checkpointables_metadata(path).metadata["network"]
    types = jax.tree.map(lambda leaf: leaf.dtype, {part: dict(stored[part]) for part in local["network"]})
    local["network"] = jax.tree.map(lambda leaf, dtype: leaf.update(dtype=dtype), local["network"], types)
    with _alone():
        parts = ocp.load_checkpointables(path, local)
    for name, tree in parts.items():
        if digest(tree) != metadata["sha256"][name]:
            raise ValueError(f"the bytes of {name} in {path} are not those that were saved (sha256 differs)")
    return parts, metadata


def _newest_whole(steps, load, root):
    """load(step) of the newest step that can be read, warning about each that cannot. Raises UserError if none can."""
    problems = []
    for step in sorted(steps, reverse=True):
        try:
            return load(step)
        except Exception as error:  # truncated files surface as many kinds
            reason = one_line(error)
            problems.append(f"{step}: {type(error).__name__}: {reason}")
            log.warning("checkpoint %s of %s cannot be read (%s); trying the one before it", step, root, reason)
    raise UserError(f"no checkpoint in {root} can be read ({'; '.join(problems)}); start again in a new work directory")


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
        self.root = _root(workdir)
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
                raise MachineLost(f"another process of the run ended during a save ({one_line(error)[:160]}); start all again") from error
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
        metadata = {**metadata, "sha256": {name: digest(tree) for name, tree in parts.items()}}
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
                return cluster.agree(lambda: _load(self.root / str(step), wanted))
            except Exception:
                self._unreadable.append(step)
                raise

        wanted = _parts(abstract_state)
        steps = json.loads(cluster.texts(json.dumps(self.steps()))[0])
        if not steps:
            return None
        parts, metadata = _newest_whole(steps, load, self.root)
        parts = jax.tree.map(lambda leaf, like: mesh.placed(leaf, like.sharding), parts, wanted)
        return {**parts["network"], **parts["training"]}, metadata


def save_network(folder, params, batch_stats, metadata):
    """Writes a network alone, for evaluation and for teaching, as the only checkpoint of a new work directory.

    Args:
      folder: must not exist. params, batch_stats: flat dicts. metadata: as a run's, see train.loop.
    Raises:
      UserError: it cannot be written; then there is nothing under that name.
    """
    parts = {"network": {"params": params, "batch_stats": batch_stats}}
    metadata = {**metadata, "sha256": {name: digest(tree) for name, tree in parts.items()}}
    folder = _absolute(folder)
    partial = folder.with_name(f".{folder.name}.partial")  # where a write fails, Orbax's threads still make folders behind our back
    try:
        shutil.rmtree(partial, ignore_errors=True)
        ocp.save_checkpointables(_root(partial) / str(metadata["step"]), parts, custom_metadata=metadata)
        partial.rename(folder)
    except Exception as error:  # tensorstore reports a full disk as ValueError or OSError
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{folder} could not be written ({one_line(error)}); nothing is left under that name") from error


def committed_steps(workdir):
    """Steps of the checkpoints in a work directory, ascending; only looks, changes nothing.

    Raises UserError where there is no such directory or no checkpoint in it.
    """
    root = epath.Path(workdir)
    if not root.is_dir():
        raise UserError(f"{workdir} does not exist; give a work directory that `train` wrote")
    steps = sorted(int(entry.name) for entry in root.glob(f"{FOLDER}/*") if entry.name.isdigit())
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint; give a work directory that `train` wrote")
    return steps


def describe(workdir):
    """The metadata of the newest readable checkpoint, without its arrays. Raises UserError as load_network does."""
    root = _root(workdir)
    return _newest_whole(committed_steps(workdir), lambda step: _described(root / str(step)), root)


def load_network(workdir):
    """(model, metadata) of the newest readable checkpoint of a work directory, the model as an evaluation view.

    Raises:
      UserError: no such directory, no checkpoint, or none that can be read.
    """
    root = _root(workdir)

    def load(step):
        described = _described(root / str(step))["model"]
        model = abstract_model(described["name"], described["num_classes"], **described["arguments"])
        _, params, batch_stats = state_lib.split(model, training=False)
        parts, metadata = _load(root / str(step), {"network": {"params": params, "batch_stats": batch_stats}})
        return state_lib.fill(model, parts["network"]["params"], parts["network"]["batch_stats"]), metadata

    return _newest_whole(committed_steps(workdir), load, root)
