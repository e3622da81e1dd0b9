"""Reads checkpoints, and writes checkpoints of single networks, with Orbax v1. Each checkpoint describes its network.

The folder `checkpoints/STEP` of a work directory holds these parts:

- "network": parameters and statistics.
- "training", in a run's checkpoint: step and optimizer.
- JSON metadata: the model's name and arguments, temperature (None if it takes none), step, epoch, preprocessing, class names, and the
  sha256 of the parts.
  Orbax alone does not notice a flipped byte on disk; the sha256 does.

training.checkpoints writes the checkpoints of a run.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bnext_jax.data import preprocessing
from bnext_jax.errors import Unreachable, UserError, one_line
from bnext_jax.io import buckets
from bnext_jax.io.digest import digest
from bnext_jax.io.files import written_whole
from bnext_jax.io.paths import Path, to_path
from bnext_jax.models.base import TableModel
from bnext_jax.models.table import abstract_model, takes_temperature
from bnext_jax.nn.network import fill, split

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
COMMITTED = "commit_success.txt"  # Orbax writes it last; a bucket cannot rename folders, so only this file tells that one is whole
FORMAT = 2  # in the metadata; checkpoints without a format are of version 0.1
OLD_NAMES = {"gain": "scale"}  # last part of a variable's path: in version 0.1 -> now


def checkpoints_folder(workdir: os.PathLike | str) -> Path:
    """The folder of the checkpoints in a work directory: an absolute path, which Orbax needs."""
    return to_path(workdir).absolute() / FOLDER


def without_run(model: TableModel, described: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the metadata of a network that no run here trained. The preprocessing is None, except for ImageNet's 1,000 classes.

    Args:
      model: the network, with its arrays.
      described: {"name", "num_classes", "arguments"}, the arguments of create_model.
    """
    own = getattr(model, "temperature", None)
    return {
        "model": described,
        "step": 0,
        "epoch": 0,
        "temperature": None if own is None else float(own[...]),
        "preprocessing": preprocessing.published(described["name"], described["num_classes"]),
        "class_names": [],
        "precision": "float32",
        "config": None,
    }


def with_digests(parts: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the format and the sha256 of each part to a checkpoint's metadata. All processes must call it.

    Args:
      parts: {"network": tree, "training": tree}, or one of them.
      metadata: JSON data.
    """
    return {**metadata, "format": FORMAT, "sha256": {name: digest(tree) for name, tree in parts.items()}}


def described(folder: Path) -> dict[str, Any]:
    """The metadata of one checkpoint. Older versions wrote a temperature also for networks that take none; it is None here.

    Raises:
      ValueError: there is none. Orbax reads damaged metadata as empty metadata, without an error.
    """
    metadata = buckets.patient(folder, lambda: ocp.checkpointables_metadata(folder)).custom_metadata
    if not metadata or "model" not in metadata or "sha256" not in metadata:
        raise ValueError(f"the description in {folder} is damaged")
    return metadata if takes_temperature(metadata["model"]["name"]) else {**metadata, "temperature": None}


def _renamed(tree, rename):
    """Renames the keys of all dicts in a tree, at any depth. The keys are paths of variables."""
    if isinstance(tree, dict):
        return {rename(key): _renamed(value, rename) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_renamed(value, rename) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(_renamed(value, rename) for value in tree)
    return tree


def _current(path):
    *parents, leaf = path.split("/")
    return "/".join([*parents, OLD_NAMES.get(leaf, leaf)]) if parents else path


def _alone():
    """An Orbax context in which this process reads alone, without waiting for other processes."""
    context, process = ocp.Context(), jax.process_index()
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = process
        context.multiprocessing.active_processes = {process}
        context.multiprocessing.barrier_sync_key_prefix = f"alone_{process}"
    return context


def read(folder: Path, abstract: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the parts of one checkpoint and verifies their bytes.

    Processes do not wait for each other here, so one process may fail alone. Variables of version 0.1 get today's names.

    Args:
      folder: the folder of one checkpoint.
      abstract: {"network": tree, "training": tree} or one of them: trees of shapes and types. A network's arrays keep the types that
        they were saved with.
    Returns:
      (the parts, on one device of this process; the metadata).
    Raises:
      ValueError: the metadata are damaged, or a sha256 differs.
      Exception: whatever Orbax raises for a damaged checkpoint.
      Unreachable: its bucket does not answer.
    """
    metadata = described(folder)
    stored = ocp.checkpointables_metadata(folder).metadata["network"]
    current = _current if metadata.get("format", 1) < FORMAT else str
    types = {part: {current(key): leaf.dtype for key, leaf in stored[part].items()} for part in abstract["network"]}
    # The network's arrays keep their saved types: in a float64 run, a teacher may be float32.
    network = jax.tree.map(lambda leaf, dtype: jax.ShapeDtypeStruct(leaf.shape, dtype), dict(abstract["network"]), types)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), {**abstract, "network": network})
    theirs = {current(key): key for part in abstract["network"] for key in stored[part]}

    def load():
        with _alone():
            return ocp.load_checkpointables(folder, _renamed(wanted, lambda key: theirs.get(key, key)))

    parts = buckets.patient(folder, load)
    for name, tree in parts.items():
        if digest(tree) != metadata["sha256"][name]:
            raise ValueError(f"{name} in {folder} has changed since it was saved (sha256 differs)")
    return _renamed(parts, current), metadata


def newest_whole(steps: Iterable[int], load: Callable[[int], Any], root: os.PathLike | str) -> Any:
    """Loads the newest checkpoint that can be read, and warns about each one that cannot.

    Args:
      steps: steps of the checkpoints, in any order.
      load: called with a step; it raises if that checkpoint cannot be read.
      root: the folder of the checkpoints, for messages.
    Returns:
      The result of `load`.
    Raises:
      UserError: no checkpoint can be read.
    """
    problems = []
    for step in sorted(steps, reverse=True):
        try:
            return load(step)
        except Unreachable:
            raise
        except Exception as error:  # truncated files raise many types
            reason = one_line(error)
            problems.append(f"{step}: {type(error).__name__}: {reason}")
            log.warning("checkpoint %s of %s cannot be read (%s); trying the previous one", step, root, reason)
    raise UserError(f"no checkpoint in {root} can be read ({'; '.join(problems)}); start again in a new work directory")


def save_network(folder: os.PathLike | str, params: Mapping[str, Any], batch_stats: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes a network without optimizer state, as the only checkpoint of a new work directory. It can be evaluated and can teach.

    Args:
      folder: the work directory to write; it must not exist.
      params: {path: array}, the parameters.
      batch_stats: {path: array}, all other variables.
      metadata: JSON data as in a run's checkpoint, see training.run.
    Raises:
      UserError: the network cannot be written. Then the folder does not exist.
    """
    parts = {"network": {"params": params, "batch_stats": batch_stats}}
    metadata = with_digests(parts, metadata)
    # if a write fails, Orbax's threads still make folders
    with written_whole(to_path(folder).absolute(), "work directory", last=COMMITTED) as partial:
        ocp.save_checkpointables(checkpoints_folder(partial) / str(metadata["step"]), parts, custom_metadata=metadata)


def steps_in(root: Path) -> list[int]:
    """The steps of the complete checkpoints in a work directory, ascending; [] without any. Changes nothing on disk."""
    folder = root / FOLDER
    found = [entry for entry in folder.iterdir() if entry.name.isdigit()] if folder.is_dir() else []
    return sorted(int(entry.name) for entry in found if not root.bucket or (entry / COMMITTED).exists())


def committed_steps(workdir: os.PathLike | str) -> list[int]:
    """The steps of the complete checkpoints in a work directory, ascending.

    Raises:
      UserError: there is no such directory, or no checkpoint in it.
      Unreachable: its bucket does not answer.
    """
    root = to_path(workdir)
    if not buckets.patient(root, root.is_dir):
        raise UserError(f"{workdir} does not exist; give a work directory that `train` wrote")
    steps = buckets.patient(root, lambda: steps_in(root))
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint; give a work directory that `train` wrote")
    return steps


def describe(workdir: os.PathLike | str) -> dict[str, Any]:
    """Reads the metadata of the newest readable checkpoint, without its arrays.

    Raises:
      UserError: see load_network.
    """
    root = checkpoints_folder(workdir)
    return newest_whole(committed_steps(workdir), lambda step: described(root / str(step)), root)


def load_network(workdir: os.PathLike | str) -> tuple[TableModel, dict[str, Any]]:
    """Reads the network of the newest readable checkpoint of a work directory.

    Returns:
      (the network as an evaluation view, its metadata).
    Raises:
      UserError: there is no such directory, no checkpoint in it, or none that can be read.
    """
    root = checkpoints_folder(workdir)

    def load(step):
        told = described(root / str(step))["model"]
        model = abstract_model(told["name"], told["num_classes"], **told["arguments"])
        _, params, batch_stats = split(model, training=False)
        parts, metadata = read(root / str(step), {"network": {"params": params, "batch_stats": batch_stats}})
        return fill(model, parts["network"]["params"], parts["network"]["batch_stats"]), metadata

    return newest_whole(committed_steps(workdir), load, root)
