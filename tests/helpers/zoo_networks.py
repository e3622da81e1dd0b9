"""Builds the network or the block of a reference output of the folder zoo."""

from flax import nnx

from bnext_jax.models.meliusnet import Block, MeliusNetConfig
from bnext_jax.models.table import create_model

BITORCH_WIDTHS = {(4, 6, 8, 6): (128, 192, 256), (1, 2, 1, 1): (32, 32, 32)}  # the blocks of a file -> its transitions


def meliusnet(arrays, meta):
    blocks = tuple(meta["blocks"])
    return create_model(
        "meliusnet", meta["num_classes"], blocks=blocks, transitions=meta.get("transitions") or BITORCH_WIDTHS[blocks],
        growth=meta.get("growth", 64), stem_width=meta.get("init_features", 64), stem=meta.get("stem", "grouped"), variant=meta["variant"],
        rngs=nnx.Rngs(0),
    )  # fmt: skip


def meliusnet_block(arrays, meta):
    config = MeliusNetConfig((1,), (), growth=meta.get("growth", 64), variant=meta["variant"]).resolved(10)
    module = Block(meta["input_shape_nchw"][1], config, rngs=nnx.Rngs(0))
    return module, "block_" if meta["variant"] == "larq" else "", lambda module, x: module(x)


NETWORKS = {"meliusnet": meliusnet}
BLOCKS = {"meliusnet": meliusnet_block}


def network(arrays, meta):
    """The network that meta["network"] names."""
    return NETWORKS[meta["network"]](arrays, meta)


def block(arrays, meta):
    """The block that meta["block"] names: (module, prefix of its names in the file, function of (module, input) that computes it)."""
    return BLOCKS[meta["block"]](arrays, meta)
