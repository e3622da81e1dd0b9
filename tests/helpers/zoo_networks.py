"""Builds the network or the block of a reference output of the folder zoo."""

from flax import nnx

from bnext_jax.models import birealnet, bnn, meliusnet, pokebnn, reactnet, real_to_binary, xnornet
from bnext_jax.models.table import abstract_model
from bnext_jax.nn.poke_layers import Phases

BITORCH_WIDTHS = {(4, 6, 8, 6): (128, 192, 256), (1, 2, 1, 1): (32, 32, 32)}  # the blocks of a file -> its transitions


def _of_widths(name):
    def build(_, meta):
        return abstract_model(name, meta["num_classes"], widths=tuple(meta["widths"]), stem_stride=2)

    return build


def _pokebnn(_, meta):
    return abstract_model("pokebnn", meta["num_classes"], multiplier=meta["filter_multiplier"], stem_stride=4)


def _meliusnet(_, meta):
    blocks = tuple(meta["blocks"])
    return abstract_model(
        "meliusnet", meta["num_classes"], blocks=blocks, transitions=meta.get("transitions") or BITORCH_WIDTHS[blocks],
        growth=meta.get("growth", 64), stem_width=meta.get("init_features", 64), stem=meta.get("stem", "grouped"), variant=meta["variant"],
    )  # fmt: skip


NETWORKS = {
    "bnn_18": _of_widths("bnn18"),
    "xnor_18": _of_widths("xnornet18"),
    "bireal_18": _of_widths("birealnet18"),
    "reactnet_18": _of_widths("reactnet18"),
    "reactnet_a": _of_widths("reactnet_a"),
    "real_to_binary": _of_widths("real_to_binary"),
    "meliusnet": _meliusnet,
    "pokebnn": _pokebnn,
}


def _plain(module, x):
    return module(x)


def _clipped(module, x):
    return module(bnn.hard_tanh(x))


def _block(cls, prefix="", call=_plain, **options):
    """A block whose channels go from those of the input to those of the cotangent."""

    def build(arrays, meta):
        inputs, features = meta["input_shape_nchw"][1], arrays["train"].shape[1]
        return cls(inputs, features, meta["stride"], rngs=nnx.Rngs(0), **options), prefix, call

    return build


def _bottleneck(arrays, meta):
    made = pokebnn.Bottleneck(meta["input_shape_nchw"][1], meta["features"], meta["stride"], rngs=nnx.Rngs(0))
    return made, "", lambda module, x: module(x, Phases(bounded=False))  # bounds stay as they are set


def _meliusnet_block(_, meta):
    config = meliusnet.MeliusNetConfig((1,), (), growth=meta.get("growth", 64), variant=meta["variant"]).resolved(10)
    module = meliusnet.Block(meta["input_shape_nchw"][1], config, rngs=nnx.Rngs(0))
    return module, "block_" if meta["variant"] == "larq" else "", _plain


BLOCKS = {
    "bnn_18": _block(bnn.Block, "block.", _clipped),
    "xnor_18": _block(xnornet.Block),
    "bireal_18": _block(birealnet.Block),
    "reactnet_18": _block(reactnet.Block18),
    "reactnet_a": _block(reactnet.BlockA),
    "real_to_binary": _block(real_to_binary.HalfBlock, "block_"),
    "strong_baseline": _block(real_to_binary.HalfBlock, "block_", side=4),
    "meliusnet": _meliusnet_block,
    "pokebnn_bottleneck": _bottleneck,
}


def network(arrays, meta):
    """The network that meta["network"] names."""
    return NETWORKS[meta["network"]](arrays, meta)


def block(arrays, meta):
    """The block that meta["block"] names: (module, prefix of its names in the file, function of (module, input) that computes it)."""
    return BLOCKS[meta["block"]](arrays, meta)
