"""What a network weighs: parameters, binary weights, and bytes at 1 bit per binary weight and float32 for every other parameter."""

import math

import jax
from flax import nnx

from bnext_jax.binary import LatentWeight
from bnext_jax.errors import UserError
from bnext_jax.layers import Buffer
from bnext_jax.models import MODELS, abstract_model
from bnext_jax.models.bnext import WIDTHS
from bnext_jax.train import networks

BITS_PER_BYTE = 8
BYTES_PER_FLOAT = 4


def size(model):
    """{"parameters", "binary_weights", "bytes"} of a network, abstract or not.

    parameters: as the PyTorch module counts them, unused PReLUs and norms included. bytes: binary_weights / 8 + 4 for
    each other parameter; this is the size on disk of a packed network, not that of a training checkpoint.
    """

    def elements(kind):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, kind)))

    parameters, binary = elements(nnx.Param) + elements(Buffer), elements(LatentWeight)
    packed = math.ceil(binary / BITS_PER_BYTE) + BYTES_PER_FLOAT * (parameters - binary)
    return {"parameters": parameters, "binary_weights": binary, "bytes": packed}


def count(directory=None, model=None):
    """{name: size} of the network in a work directory or PyTorch file, of one model, or of the published ones.

    Raises UserError for an unknown model, one that needs widths, a missing work directory or file, or both arguments at once.
    """
    if directory and model:
        raise UserError("count takes --checkpoint or --model, not both")
    if directory:
        described = networks.describe(directory)["model"]
        return {described["name"]: size(abstract_model(described["name"], described["num_classes"], **described["arguments"]))}
    names = [model] if model else [*WIDTHS, "bnext18"]
    if model == "bnext":
        raise UserError(f"model bnext has no widths of its own; give a work directory with --checkpoint, or one of: {', '.join(MODELS)}")
    return {name: size(abstract_model(name)) for name in names}
