"""Builds the network or the block of a reference output of the folder zoo."""

NETWORKS = {}
BLOCKS = {}


def network(arrays, meta):
    """The network that meta["network"] names."""
    return NETWORKS[meta["network"]](arrays, meta)


def block(arrays, meta):
    """The block that meta["block"] names: (module, prefix of its names in the file, function of (module, input) that computes it)."""
    return BLOCKS[meta["block"]](arrays, meta)
