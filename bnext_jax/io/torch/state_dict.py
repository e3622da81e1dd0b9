"""Converts between modules of bnext_jax and state dicts of the reference implementations: from_state_dict and to_state_dict.

A state dict holds PyTorch's names and layouts, or those of Keras (LAYER/WEIGHT) and Flax (COLLECTION/MODULE/NAME) for the networks whose
reference is written in them.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io.names.entry import ABSENT
from bnext_jax.io.names.rules import COUNT, LAYOUTS, entries


def _stored(array):
    """The array in the type that modules hold: integers as int32, floats as float32; float64 stays if JAX has float64 enabled."""
    if not np.issubdtype(array.dtype, np.floating):
        return jnp.asarray(array, jnp.int32)
    keep = array.dtype == np.float64 and jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return jnp.asarray(array, jnp.float64 if keep else jnp.float32)


def _expected(entry):
    to_torch, _ = LAYOUTS[entry.layout]
    return to_torch(np.broadcast_to(np.float32(0), entry.shape)).shape


def _has(entry, tensors):
    """Whether a state dict has what an entry needs. Counters of batches may be missing, as in files of old versions of PyTorch."""
    return entry.name in tensors or entry.layout == COUNT


def _problems(expected, tensors):
    names = {entry.name for entry in expected}
    lines = [f"missing {entry.name}" for entry in sorted(expected, key=lambda entry: entry.name) if not _has(entry, tensors)]
    lines += [f"unknown {name}" for name in sorted(tensors.keys() - names)]
    for entry in expected:
        if entry.name in tensors and np.shape(tensors[entry.name]) != _expected(entry):
            lines.append(f"{entry.name} has shape {np.shape(tensors[entry.name])}, the network needs {_expected(entry)}")
        elif entry.name in tensors and entry.layout != COUNT and not jnp.issubdtype(np.asarray(tensors[entry.name]).dtype, jnp.floating):
            lines.append(f"{entry.name} has numbers of {np.asarray(tensors[entry.name]).dtype}, the network needs floats")
        elif entry.value is not None and entry.name in tensors and not (np.asarray(tensors[entry.name]) == entry.value).all():
            lines.append(f"{entry.name} is not {entry.value:g} everywhere, and the network knows no other value")
    temperatures = {
        float(np.reshape(tensors[entry.name], -1)[0])
        for entry in expected
        if entry.layout == "temperature" and np.size(tensors.get(entry.name, ())) == 1
    }
    if len(temperatures) > 1:
        lines.append(f"the temperatures differ: {sorted(temperatures)}")
    return lines


def from_state_dict(module: nnx.Module, tensors: Mapping[str, np.ndarray]) -> nnx.Module:
    """Fills a module from a PyTorch state dict, in place.

    A missing `num_batches_tracked`, which counts training steps, becomes 0; so does our counter where the program has none (Keras). The
    values are not clipped to their bounds. Training clips them when it starts from a state.

    Args:
      module: a network from create_model, or a block or unit of bnext_jax.nn.bnext_units.
      tensors: {PyTorch name: numpy array in PyTorch's layout}.
    Returns:
      The same module.
    Raises:
      UserError: missing or unknown names, wrong shapes, integers in place of floats, or temperatures that differ. The message lists all
        of them, and the module is not changed.
    """
    every = entries(module)
    expected = [entry for entry in every if entry.layout != ABSENT]
    problems = _problems(expected, tensors)
    if problems:
        raise UserError(f"the state dict does not fit the network in {len(problems)} places: " + "; ".join(problems))
    parts: list[np.ndarray] = []
    for entry in expected:
        _, to_ours = LAYOUTS[entry.layout]
        found = tensors[entry.name] if entry.name in tensors else np.zeros(_expected(entry), np.int64)
        part, count = entry.part
        parts = [*parts[:part], to_ours(np.asarray(found), entry.shape)]
        if part == count - 1:
            entry.variable.set_value(_stored(parts[0] if count == 1 else np.concatenate(parts, axis=-1)))
    for entry in every:
        if entry.layout == ABSENT:
            entry.variable.set_value(jnp.full(entry.variable.shape, entry.value or 0, entry.variable.dtype))
    return module


def to_state_dict(module: nnx.Module) -> dict[str, np.ndarray]:
    """The PyTorch state dict of a module.

    Args:
      module: a network, or a block or unit of bnext_jax.nn.bnext_units.
    Returns:
      {PyTorch name: numpy array in PyTorch's layout}, in PyTorch's order.
    Raises:
      UserError: the module has no PyTorch counterpart.
    """
    tensors = {}
    for entry in entries(module):
        if entry.layout == ABSENT:
            continue
        to_torch, _ = LAYOUTS[entry.layout]
        tensors[entry.name] = np.array(to_torch(entry.of(np.asarray(entry.variable[...]))), order="C")
    return tensors
