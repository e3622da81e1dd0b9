"""Reads checkpoints as arrays."""

import jax
import numpy as np

from bnext_jax.io import checkpoint


def saved_state(workdir):
    """Returns (step, {key: array}) of the newest checkpoint: all arrays of the network and of the training state."""
    step = checkpoint.committed_steps(workdir)[-1]
    tree = checkpoint.ocp.load_checkpointables(checkpoint.checkpoints_folder(workdir) / str(step))
    leaves = jax.tree_util.tree_leaves_with_path({name: tree[name] for name in ("network", "training")})
    return step, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
