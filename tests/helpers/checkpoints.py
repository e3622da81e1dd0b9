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


def assert_same_state(one, other, steps):
    """Asserts that two work directories end after `steps` steps with the same bits in every array."""
    (step, ours), (others_step, theirs) = saved_state(one), saved_state(other)
    assert step == others_step == steps and ours.keys() == theirs.keys() and len(ours) > 60
    for key in ours:
        assert ours[key].tobytes() == theirs[key].tobytes(), key
