"""The command `count`: what a network computes and weighs, of any network and measured on itself; see macs for the products."""

import dataclasses
import math
import sys

import jax
from flax import nnx

from bnext_jax.analysis import macs, tables
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress
from bnext_jax.io import load as networks
from bnext_jax.models import MODELS, BNext, abstract_model
from bnext_jax.models.bnext import WIDTHS
from bnext_jax.nn.layers import Buffer
from bnext_jax.nn.quantizers import LatentWeight

BITS = {macs.BINARY: 1, "int4": 4, "int8": 8, macs.FLOAT: 32}  # of one stored weight
MEBI = 2**20
RESOLUTION = 224


@dataclasses.dataclass(frozen=True)
class Published:
    """The authors' figures of one network (SPEC section 2).

    parameters, binary_macs: exact, by which the network is known. ops: in G. degree: of binarisation, in percent. mebibytes: at 1 bit per
    binary weight; quantised: of the quantised edition.
    """

    parameters: int
    binary_macs: int
    ops: float
    degree: float
    mebibytes: float | None
    quantised: float | None


PUBLISHED = {
    "bnext_tiny": Published(30_862_236, 4_816_896_000, 0.077, 97.81, 13.3, 5.3),
    "bnext_small": Published(68_594_614, 10_838_016_000, 0.172, 98.47, 26.7, 11.1),
    "bnext_middle": Published(134_501_974, 20_086_456_320, 0.317, 99.02, None, 20.4),
    "bnext_large": Published(326_546_640, 52_150_927_360, 0.819, 99.49, 106.1, 47.6),
    "bnext18": Published(12_064_648, 1_676_279_808, 0.043, 61.04, 5.4, None),
}


def edition(name, kind):
    """The kind of a layer's weights in the quantised edition: gates at 4 bit, stem, classifier and shortcuts at 8.

    name, kind: of a macs.Layer.
    """
    if kind == macs.BINARY:
        return kind
    return "int4" if "/gate/" in f"/{name}" else "int8"


def _elements(model, kind):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, kind)))


def _bytes(parameters, kernels):
    """Bytes at the bits of each kernel's kind, [(weights, kind)], and float32 for every other parameter."""
    others = parameters - sum(weights for weights, _ in kernels)
    return sum(math.ceil(weights * BITS[kind] / 8) for weights, kind in kernels) + 4 * others


def weigh(model):
    """What a network weighs, abstract or not; nothing is computed.

    Returns:
      {"parameters": as the PyTorch module counts them, unused PReLUs and norms included; "binary_weights";
      "bytes": packed: 1 bit per binary weight, a quantised layer's own bits per weight, float32 for every other parameter;
      "bytes_edition": the same with gates at 4 bit, stem and classifier at 8 (SPEC section 5), None where there is no such edition;
      "bytes_float32": 4 per parameter; "bytes_checkpoint": of a training checkpoint: latent weights, two moments each, statistics}.
    """
    parameters = _elements(model, nnx.Param) + _elements(model, Buffer)
    kernels = [(name, math.prod(variable.shape), macs.kind_of(variable, module)) for name, variable, module in macs.kernels(model)]
    binary = _elements(model, LatentWeight)
    everything = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model)))
    return {
        "parameters": parameters,
        "binary_weights": binary,
        "bytes": _bytes(parameters, [(weights, kind) for _, weights, kind in kernels]),
        "bytes_edition": _bytes(parameters, [(weights, edition(name, kind)) for name, weights, kind in kernels])
        if isinstance(model, BNext)
        else None,
        "bytes_float32": 4 * parameters,
        "bytes_checkpoint": 4 * (everything + 2 * _elements(model, nnx.Param)),
    }


def operations(sums):
    """(OPs, degree of binarisation in percent) of {kind: MACs}: binary/64 + int8/8 + int4/16 + float, and binary/64 as a share of that."""
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
        sums = _sums(layers, lambda layer: edition(layer.name, layer.kind))
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


def _whole(flag, text, least=1):
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError as error:
        raise UserError(f"--{flag} {text!r} is no whole number") from error
    if number < least:
        raise UserError(f"--{flag} is {number}; it must be {least} or more")
    return number


def _chosen(checkpoint, model, widths, classes, gate_bits, resolution):
    """([(name, abstract network)], (height, width)) of count's arguments."""
    size = (_whole("resolution", resolution) or RESOLUTION,) * 2
    if checkpoint:
        given = [f"--{flag}" for flag, value in (("model", model), ("widths", widths), ("classes", classes)) if value]
        if given:
            raise UserError(f"count takes --checkpoint or {', '.join(given)}, not both")
        metadata = networks.describe(checkpoint, gate_bits)
        described = metadata["model"]
        chosen = [(described["name"], described["num_classes"], described["arguments"])]
        size = tuple((metadata["preprocessing"] or {}).get("image_shape", size))[:2] if resolution is None else size
    else:
        arguments = {}
        if widths:
            if model not in (None, "bnext"):
                raise UserError(f"--widths are those of the model bnext; leave --model={model} out")
            model, arguments = "bnext", {"widths": tuple(_whole("widths", part) for part in widths.strip("()").split(",") if part.strip())}
        elif model == "bnext":
            raise UserError(f"model bnext has no widths of its own; add --widths=32,64,128, or name one of: {', '.join(MODELS)}")
        names = model.split(",") if model else [name for name in PUBLISHED if gate_bits is None or name in WIDTHS]
        chosen = [
            (
                name,
                _whole("classes", classes) or 1000,
                networks.edition_arguments(name, arguments, gate_bits) if gate_bits is not None else arguments,
            )
            for name in names
        ]
    return [(name, abstract_model(name, number, **arguments)) for name, number, arguments in chosen], size


def count(checkpoint=None, model=None, widths=None, classes=None, resolution=None, gate_bits=None, per_layer=False, output=None):
    """Counts networks, and prints the table on standard error.

    Args:
      checkpoint: a work directory or PyTorch file. model: names, joined by ","; None = the published ones. widths: of a BNext, as text.
      classes, resolution: whole numbers as text (1000, 224 pixels a side; a checkpoint's own). gate_bits: "4" or "8": as the quantised
      edition.
      per_layer: a table of layers instead of one of networks. output: a table to write, .md or .csv.
    Returns:
      {name: {"pixels": [height, width], "macs": {kind: multiply-accumulates of an image}, "ops", "degree" (percent), weigh()'s, "edition":
      {"macs", "ops", "degree"} in the quantised edition's reading, "published": the authors' figures, and with them "printed_gops",
      "printed_degree" in "edition", which are rounded as theirs; "layers" if asked for}}.
    Raises:
      UserError: an unknown model, arguments that do not go together, a network that cannot be counted, a file that cannot be written.
    """
    path = tables.file_path(output) if output else None
    (chosen, size), found = _chosen(checkpoint, model, widths, classes, gate_bits, resolution), {}
    with Progress("count", len(chosen), 0) as progress:
        for name, network in chosen:
            found[name] = measure(name, network, size, per_layer)
            progress.step()
    rows = layer_rows(found) if per_layer else summary_rows(found)
    print(tables.text(rows), file=sys.stderr)
    if path:
        tables.save(rows, path)
    return found


def layer_rows(found):
    """The table of the layers of count's result; every number in full."""
    rows = [["layer", "weights", "kernel", "output", "MACs", "OPs", "bytes"]]
    for name, values in found.items():
        for layer in values["layers"]:
            shapes = ["x".join(map(str, layer[key])) for key in ("kernel", "output")]
            numbers = [f"{layer['macs']}", f"{layer['ops']:.12g}", f"{layer['bytes']}"]
            rows.append([f"{name}/{layer['name']}", layer["kind"], *shapes, *numbers])
        others = values["bytes"] - sum(layer["bytes"] for layer in values["layers"])
        rows.append([f"{name}: norms, activations, biases", macs.FLOAT, "", "", "", "", f"{others}"])
    return rows


TITLES = {macs.BINARY: "binary MACs", "int8": "8-bit MACs", "int4": "4-bit MACs", macs.FLOAT: "float MACs"}


def _ask(values, key, part=None):
    """values[part][key] or values[key], None where there is none."""
    return (values if part is None else values.get(part, {})).get(key)


def summary_rows(found):
    """The table of count's result: a column a network, the published figures below what they are compared with."""

    def row(title, key, shown, part=None, unit=1):
        values = [_ask(one, key, part) for one in found.values()]
        return [title, *("-" if value is None else format(value if unit == 1 else value / unit, shown) for value in values)]

    def published(key):
        return row("    published", key, "", "published")

    pixels = [" x ".join(map(str, one["pixels"])) for one in found.values()]
    kinds = [kind for kind in TITLES if any(one["macs"][kind] for one in found.values())]
    rows = [
        ["", *found],
        ["pixels", *pixels],
        *([TITLES[kind], *(f"{one['macs'][kind]:,}" for one in found.values())] for kind in kinds),
        row("OPs, G", "ops", ".5g", unit=1e9),
        row("degree of binarisation, %", "degree", ".2f"),
        row("parameters", "parameters", ","),
        row("binary weights", "binary_weights", ","),
        row("packed, MiB", "bytes", ".3f", unit=MEBI),
        published("mebibytes"),
        row("in float32, MiB", "bytes_float32", ".1f", unit=MEBI),
        row("training checkpoint, MiB", "bytes_checkpoint", ".1f", unit=MEBI),
        row("quantised edition: OPs, G", "ops", ".5g", "edition", 1e9),
        row("    rounded as published", "printed_gops", ".3f", "edition"),
        published("ops"),
        row("quantised edition: degree, %", "degree", ".2f", "edition"),
        row("    rounded as published", "printed_degree", ".3f", "edition"),
        published("degree"),
        row("quantised edition: packed, MiB", "bytes_edition", ".3f", unit=MEBI),
        published("quantised"),
    ]
    return [line for line in rows if set(line[1:]) != {"-"}]
