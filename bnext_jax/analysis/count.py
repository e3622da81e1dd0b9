"""Counts the operations, parameters and sizes of any network from the network itself. Module macs counts the multiply-accumulates."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from bnext_jax.analysis import macs
from bnext_jax.models.base import TableModel
from bnext_jax.nn.binary_conv import LatentWeight
from bnext_jax.nn.variables import Buffer

BITS = {kind: bits for bits, kind in macs.KINDS.items()}  # kind of a layer -> bits of one stored weight
RESOLUTION = 224  # pixels, height and width of an image by default


@dataclasses.dataclass(frozen=True)
class Published:
    """The authors' figures of one network (docs/spec.md, section 2; Guo et al. 2022, arXiv 2211.12933).

    Attributes:
      parameters: number of parameters. Together with binary_macs it identifies the network; both are exact values.
      binary_macs: binary multiply-accumulates for one image, an exact value.
      ops: OPs for one image, in G (1e9).
      degree: degree of binarization, in percent.
      mebibytes: size at 1 bit per binary weight, in MiB; None = not published.
      quantized: size of the quantized edition, in MiB; None = not published.
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


def _elements(model: nnx.Module, kind: type[nnx.Variable]) -> int:
    """Returns the number of values in all variables of one kind."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, kind)))


def _bytes(parameters: int, kernels: list[tuple[int, str]]) -> int:
    """Returns the size in bytes. Kernels, given as [(number of weights, kind)], take their kind's bits; other parameters are float32."""
    others = parameters - sum(weights for weights, _ in kernels)
    return sum(math.ceil(weights * BITS[kind] / 8) for weights, kind in kernels) + 4 * others


def weigh(model: TableModel) -> dict[str, Any]:
    """Returns the numbers of parameters and the sizes of a network. Computes no array, so the network may be abstract.

    Args:
      model: a whole network of models.table.
    Returns:
      A dict with
        "parameters": number of parameters as the PyTorch module counts them, with unused PReLUs and norms;
        "binary_weights": number of binary weights;
        "bytes": packed size: 1 bit per binary weight, a quantized layer's own bits per weight, float32 for every other parameter;
        "bytes_edition": the same with gates at 4 bits, stem and classifier at 8 bits (docs/spec.md, section 5). None if the network has
          no quantized edition;
        "bytes_float32": 4 bytes per parameter;
        "bytes_checkpoint": size of a training checkpoint: every variable in float32, and two optimizer moments per parameter (SGD has one).
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


def operations(sums: Mapping[str, int]) -> tuple[float, float]:
    """Returns the OPs and the degree of binarization (docs/spec.md, section 2).

    OPs = binary / 64 + int8 / 8 + int4 / 16 + float. Degree = (binary / 64) / OPs.

    Args:
      sums: {kind: multiply-accumulates}, kinds as in macs.COST.
    Returns:
      (OPs, degree in percent).
    """
    total = sum(count * macs.COST[kind] for kind, count in sums.items())
    return total, 100 * sums.get(macs.BINARY, 0) * macs.COST[macs.BINARY] / total


def as_printed(sums: Mapping[str, int]) -> tuple[float, float]:
    """Returns the OPs and the degree of binarization, rounded in the way of the authors.

    They round the binary multiply-accumulates to 2 decimals in G, compute the OPs from that and round them to 3 decimals in G, then
    compute the degree from both rounded numbers.

    Args:
      sums: {kind: multiply-accumulates}, kinds as in macs.COST.
    Returns:
      (OPs in G, degree in percent).
    """
    binary = round(sums.get(macs.BINARY, 0) / 1e9, 2) * macs.COST[macs.BINARY]
    others = sum(count * macs.COST[kind] for kind, count in sums.items() if kind != macs.BINARY) / 1e9
    ops = round(binary + others, 3)
    return ops, 100 * binary / ops


def _sums(layers: Iterable[macs.Layer], kind_of: Callable[[macs.Layer], str] = lambda layer: layer.kind) -> dict[str, int]:
    """Returns {kind: multiply-accumulates} of all layers."""
    found = dict.fromkeys(macs.COST, 0)
    for layer in layers:
        found[kind_of(layer)] += layer.macs
    return found


def measure(name: str, model: TableModel, size: tuple[int, ...], per_layer: bool = False) -> dict[str, Any]:
    """Returns everything that the command `count` reports about one network.

    Args:
      name: the network's name. It selects the published figures; they are included only if parameters and binary operations match.
      model: an evaluation view, abstract or not.
      size: (height, width) of the image, in pixels.
      per_layer: also return "layers", a list with one dict per layer.
    Returns:
      The figures of one network, see commands.count.count.
    Raises:
      UserError: see macs.layers.
    """
    layers = macs.layers(model, *size)
    found = weigh(model)
    sums = _sums(layers)
    ops, degree = operations(sums)
    result: dict[str, Any] = {"pixels": list(size), "macs": sums, "ops": ops, "degree": degree, **found}
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
