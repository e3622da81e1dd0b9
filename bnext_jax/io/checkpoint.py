"""Checkpoints, read and written whole with Orbax v1; each describes itself.

A work directory's `checkpoints/STEP` holds "network" (parameters and statistics) and, of a run, "training" (step, optimizer), and
JSON metadata: the model's name and arguments, temperature, step, epoch, preprocessing, class names, and the sha256 of the parts,
because a flipped byte on disk would otherwise load in silence. training.checkpoints writes those of a run.
"""

import logging

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from bnext_jax.errors import UserError, one_line
from bnext_jax.io.digest import digest
from bnext_jax.io.files import written_whole
from bnext_jax.models.table import abstract_model
from bnext_jax.nn.network import fill, split

log = logging.getLogger(__name__)
FOLDER = "checkpoints"
FORMAT = 2  # in the metadata; what has none was written by version 0.1
OLD_NAMES = {"gain": "scale"}  # last part of a variable's path: version 0.1's -> today's


def absolute(path):
    """Orbax takes absolute paths only; what lies in a bucket is."""
    return epath.Path(path) if "://" in str(path) else epath.Path(path).absolute()


def checkpoints_folder(workdir):
    """Where a work directory keeps its checkpoints, as epath.Path."""
    return absolute(workdir) / FOLDER


def with_digests(parts, metadata):
    """The metadata of a checkpoint, with its format and the sha256 of each part."""
    return {**metadata, "format": FORMAT, "sha256": {name: digest(tree) for name, tree in parts.items()}}


def described(path):
    """The metadata of one checkpoint. Raises ValueError where there is none: Orbax takes a damaged description for an empty one."""
    metadata = ocp.checkpointables_metadata(path).custom_metadata
    if not metadata or "model" not in metadata or "sha256" not in metadata:
        raise ValueError(f"the description in {path} is damaged")
    return metadata


def _renamed(tree, rename):
    """A tree with the variables' paths, keys of flat dicts at any depth, renamed."""
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
    """Orbax's context in which this process reads without the others."""
    context, process = ocp.Context(), jax.process_index()
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = process
        context.multiprocessing.active_processes = {process}
        context.multiprocessing.barrier_sync_key_prefix = f"alone_{process}"
    return context


def read(path, abstract):
    """The parts of one checkpoint, its bytes verified, and its metadata.

    Processes do not wait for each other here, so that each may fail by itself. Variables that version 0.1 named otherwise get
    today's names.

    Args:
      path: of one checkpoint.
      abstract: {"network": ..., "training": ...} or one of them: trees of shapes.
    Returns:
      (the parts on one of this process's devices, metadata).
    Raises:
      Whatever a damaged checkpoint makes Orbax raise.
    """
    metadata = described(path)
    stored = ocp.checkpointables_metadata(path).metadata["network"]
    current = _current if metadata.get("format", 1) < FORMAT else str
    types = {part: {current(key): leaf.dtype for key, leaf in stored[part].items()} for part in abstract["network"]}
    # a network keeps the types that it was saved with: the teacher of a float64 run may be float32
    network = jax.tree.map(lambda leaf, dtype: jax.ShapeDtypeStruct(leaf.shape, dtype), dict(abstract["network"]), types)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), {**abstract, "network": network})
    theirs = {current(key): key for part in abstract["network"] for key in stored[part]}
    with _alone():
        parts = ocp.load_checkpointables(path, _renamed(wanted, lambda key: theirs.get(key, key)))
    for name, tree in parts.items():
        if digest(tree) != metadata["sha256"][name]:
            raise ValueError(f"the bytes of {name} in {path} are not those that were saved (sha256 differs)")
    return _renamed(parts, current), metadata


def newest_whole(steps, load, root):
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


def save_network(folder, params, batch_stats, metadata):
    """Writes a network alone, for evaluation and for teaching, as the only checkpoint of a new work directory.

    Args:
      folder: must not exist.
      params, batch_stats: flat dicts.
      metadata: as a run's, see training.run.
    Raises:
      UserError: it cannot be written; then there is nothing under that name.
    """
    parts = {"network": {"params": params, "batch_stats": batch_stats}}
    metadata = with_digests(parts, metadata)
    with written_whole(absolute(folder), "work directory") as partial:  # where a write fails, Orbax's threads still make folders
        ocp.save_checkpointables(checkpoints_folder(partial) / str(metadata["step"]), parts, custom_metadata=metadata)


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
    root = checkpoints_folder(workdir)
    return newest_whole(committed_steps(workdir), lambda step: described(root / str(step)), root)


def load_network(workdir):
    """(model, metadata) of the newest readable checkpoint of a work directory, the model as an evaluation view.

    Raises:
      UserError: no such directory, no checkpoint, or none that can be read.
    """
    root = checkpoints_folder(workdir)

    def load(step):
        told = described(root / str(step))["model"]
        model = abstract_model(told["name"], told["num_classes"], **told["arguments"])
        _, params, batch_stats = split(model, training=False)
        parts, metadata = read(root / str(step), {"network": {"params": params, "batch_stats": batch_stats}})
        return fill(model, parts["network"]["params"], parts["network"]["batch_stats"]), metadata

    return newest_whole(committed_steps(workdir), load, root)
