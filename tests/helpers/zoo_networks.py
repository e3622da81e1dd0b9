"""Builds the network or the block of a reference output of the folder zoo."""

from flax import nnx

from bnext_jax.models import pokebnn
from bnext_jax.models.table import create_model
from bnext_jax.nn.poke_layers import Phases


def _pokebnn(arrays, meta):
    return create_model("pokebnn", meta["num_classes"], multiplier=meta["filter_multiplier"], stem_stride=4, rngs=nnx.Rngs(0))


def _pokebnn_bottleneck(arrays, meta):
    made = pokebnn.Bottleneck(meta["input_shape_nchw"][1], meta["features"], meta["stride"], rngs=nnx.Rngs(0))
    return made, "", lambda module, x: module(x, Phases(bounded=False))  # AQT's bounds stay as they are set


NETWORKS = {"pokebnn": _pokebnn}
BLOCKS = {"pokebnn_bottleneck": _pokebnn_bottleneck}


def network(arrays, meta):
    """The network that meta["network"] names."""
    return NETWORKS[meta["network"]](arrays, meta)


def block(arrays, meta):
    """The block that meta["block"] names: (module, prefix of its names in the file, function of (module, input) that computes it)."""
    return BLOCKS[meta["block"]](arrays, meta)
