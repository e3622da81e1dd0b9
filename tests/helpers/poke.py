"""Small PokeBNNs whose values numpy draws: jax.random would compile a program for each shape."""

import numpy as np

from bnext_jax.io.names.entry import ABSENT
from bnext_jax.io.names.rules import LAYOUTS, entries
from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.table import abstract_model
from tests.helpers import zoo_files

SMALL = {"multiplier": 0.25, "depths": (1, 1, 1)}


def tensors(model, bounds=None):
    """The tensors of a PokeBNN with AQT's names.

    Args:
      model: the network, abstract or not.
      bounds: of 8-bit and 4-bit inputs; None = drawn between 0.5 and 3.
    """
    found = {}
    for entry in entries(model):
        if entry.layout == ABSENT:
            continue
        shape = LAYOUTS[entry.layout][0](np.broadcast_to(np.float32(0), entry.variable.shape)).shape
        drawn = zoo_files.draw(entry.name, shape, 7, {entry.name} if "/conv-" in entry.name else ())
        if entry.name.endswith("bounds"):
            drawn = np.full(shape, entry.value or bounds or 0, np.float32)
            if entry.value is None and bounds is None:
                drawn += np.random.default_rng(len(found)).uniform(0.5, 3, shape).astype(np.float32)
        found[entry.name] = drawn
    return found


def network(classes=10, bounds=None, **arguments):
    """A PokeBNN with drawn values, see `tensors`."""
    model = abstract_model("pokebnn", classes, **arguments)
    return from_state_dict(model, tensors(model, bounds))
