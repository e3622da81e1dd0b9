"""from_state_dict and to_state_dict: the same tensors under PyTorch's names and under ours."""

import jax
import jax.numpy as jnp
import numpy as np

from bnext_jax.errors import UserError
from bnext_jax.io.torch.names import LAYOUTS, entries


def _stored(array):
    """The array as we hold it: integers as int32, floats as float32, or as float64 where JAX has it enabled."""
    if not np.issubdtype(array.dtype, np.floating):
        return jnp.asarray(array, jnp.int32)
    keep = array.dtype == np.float64 and jax.config.jax_enable_x64
    return jnp.asarray(array, jnp.float64 if keep else jnp.float32)


def _expected(entry):
    to_torch, _ = LAYOUTS[entry.layout]
    return to_torch(np.broadcast_to(np.float32(0), entry.variable.shape)).shape


def _problems(expected, tensors):
    names = {entry.name for entry in expected}
    lines = [f"missing {name}" for name in sorted(names - tensors.keys())]
    lines += [f"unknown {name}" for name in sorted(tensors.keys() - names)]
    for entry in expected:
        if entry.name in tensors and np.shape(tensors[entry.name]) != _expected(entry):
            lines.append(f"{entry.name} has shape {np.shape(tensors[entry.name])}, the network needs {_expected(entry)}")
    temperatures = {
        float(np.reshape(tensors[entry.name], -1)[0])
        for entry in expected
        if entry.layout == "temperature" and np.size(tensors.get(entry.name, ())) == 1
    }
    if len(temperatures) > 1:
        lines.append(f"the temperatures differ: {sorted(temperatures)}")
    return lines


def from_state_dict(module, tensors):
    """Fills a network, block or unit of ours from a PyTorch state dict, in place.

    Values are taken as they are: bounds are not applied (training applies them when a state enters it).

    Args:
      module: from create_model, or a block or unit of bnext_jax.nn.bnext_units.
      tensors: {PyTorch name: numpy array in PyTorch's layout}.
    Returns:
      The same module.
    Raises:
      UserError: names missing on either side, wrong shapes, differing temperatures; the message lists them all, and
        the module is left as it was.
    """
    expected = entries(module)
    problems = _problems(expected, tensors)
    if problems:
        raise UserError(f"the state dict does not fit the network in {len(problems)} places: " + "; ".join(problems))
    for entry in expected:
        _, to_ours = LAYOUTS[entry.layout]
        entry.variable.set_value(_stored(to_ours(np.asarray(tensors[entry.name]))))
    return module


def to_state_dict(module):
    """The PyTorch state dict of a network, block or unit of ours: {PyTorch name: numpy array in PyTorch's layout}, in PyTorch's order."""
    tensors = {}
    for entry in entries(module):
        to_torch, _ = LAYOUTS[entry.layout]
        tensors[entry.name] = np.array(to_torch(np.asarray(entry.variable[...])), order="C")
    return tensors
