"""What a network computes and weighs, of any network and measured on itself; see macs for the products."""

import dataclasses
import math

import jax
from flax import nnx

from bnext_jax.analysis import macs
from bnext_jax.nn.binary_conv import LatentWeight
from bnext_jax.nn.layers import Buffer

BITS = {kind: bits for bits, kind in macs.KINDS.items()}  # of one stored weight
RESOLUTION = 224


@dataclasses.dataclass(frozen=True)
class Published:
    """The authors' figures of one network (SPEC section 2).

    parameters, binary_macs: exact, by which the network is known. ops: in G. degree: of binarization, in percent. mebibytes: at 1 bit per
    binary weight; quantized: of the quantized edition.
    """

    parameters: int
    binary_macs: int
    ops: float
    degree: float
    mebibytes: float | None
    quantized: float | None


PUBLISHED = {
    "bnext_tiny": Published(30_862_236, 4_816_896_000, 0.077, 97.81, 13.3, 5.3),
    "bnext_small": Published(68_594_614, 10_838_016_000, 0.172, 98.47, 26.7, 11.1),
    "bnext_middle": Published(134_501_974, 20_086_456_320, 0.317, 99.02, None, 20.4),
    "bnext_large": Published(326_546_640, 52_150_927_360, 0.819, 99.49, 106.1, 47.6),
    "bnext18": Published(12_064_648, 1_676_279_808, 0.043, 61.04, 5.4, None),
}


def _elements(model, kind):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, kind)))


def _bytes(parameters, kernels):
    """Bytes at the bits of each kernel's kind, [(weights, kind)], and float32 for every other parameter."""
    others = parameters - sum(weights for weights, _ in kernels)
    return sum(math.ceil(weights * BITS[kind] / 8) for weights, kind in kernels) + 4 * others


def weigh(model):
    """What a network weighs, abstract or not; nothing is computed.

    Args:
      model: a network of models.table, as a whole.
    Returns:
      {"parameters": as the PyTorch module counts them, unused PReLUs and norms included; "binary_weights";
      "bytes": packed: 1 bit per binary weight, a quantized layer's own bits per weight, float32 for every other parameter;
      "bytes_edition": the same with gates at 4 bit, stem and classifier at 8 (SPEC section 5), None where there is no such edition;
      "bytes_float32": 4 per parameter; "bytes_checkpoint": of a training checkpoint: latent weights, two moments each, statistics}.
    """
    has_edition = model.config.edition(4) is not None
    parameters = _elements(model, nnx.Param) + _elements(model, Buffer)
    kernels = [(math.prod(variable.shape), *macs.kinds_of(variable, module)) for _, variable, module in macs.kernels(model)]
    binary = _elements(model, LatentWeight)
    everything = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model)))
    return {
        "parameters": parameters,
        "binary_weights": binary,
        "bytes": _bytes(parameters, [(weights, kind) for weights, kind, _ in kernels]),
        "bytes_edition": _bytes(parameters, [(weights, edition) for weights, _, edition in kernels]) if has_edition else None,
        "bytes_float32": 4 * parameters,
        "bytes_checkpoint": 4 * (everything + 2 * _elements(model, nnx.Param)),
    }


def operations(sums):
    """(OPs, degree of binarization in percent) of {kind: MACs}: binary/64 + int8/8 + int4/16 + float, and binary/64 as a share of that."""
    total = sum(count * macs.COST[kind] for kind, count in sums.items())
    return total, 100 * sums.get(macs.BINARY, 0) * macs.COST[macs.BINARY] / total


def as_printed(sums):
    """(G OPs, degree in percent) of {kind: MACs} as the authors rounded: binary G to 2 decimals, OPs of that to 3, the degree of those."""
    binary = round(sums.get(macs.BINARY, 0) / 1e9, 2) * macs.COST[macs.BINARY]
    others = sum(count * macs.COST[kind] for kind, count in sums.items() if kind != macs.BINARY) / 1e9
    ops = round(binary + others, 3)
    return ops, 100 * binary / ops


def _sums(layers, kind_of=lambda layer: layer.kind):
    found = dict.fromkeys(macs.COST, 0)
    for layer in layers:
        found[kind_of(layer)] += layer.macs
    return found


def measure(name, model, size, per_layer=False):
    """Everything that count says of one network, see count; name: under which it may be published. size: (height, width) of an image."""
    layers = macs.layers(model, *size)
    found = weigh(model)
    sums = _sums(layers)
    ops, degree = operations(sums)
    result = {"pixels": list(size), "macs": sums, "ops": ops, "degree": degree, **found}
    if found["binary_weights"]:
        sums = _sums(layers, lambda layer: layer.edition)
        ops, degree = operations(sums)
        result["edition"] = {"macs": sums, "ops": ops, "degree": degree}
        published = PUBLISHED.get(name)
        if published and (published.parameters, published.binary_macs) == (found["parameters"], sums[macs.BINARY]):
            printed = as_printed(sums)
            result["edition"] |= {"printed_gops": printed[0], "printed_degree": printed[1]}
            result["published"] = dataclasses.asdict(published)
    if per_layer:
        result["layers"] = [{**dataclasses.asdict(layer), "ops": layer.macs * macs.COST[layer.kind],
                             "bytes": _bytes(layer.weights, [(layer.weights, layer.kind)])} for layer in layers]  # fmt: skip
    return result
