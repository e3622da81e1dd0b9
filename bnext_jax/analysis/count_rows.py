"""Makes the tables of the command `count`: one column per network, or one row per layer."""

from collections.abc import Mapping
from typing import Any

from bnext_jax.analysis import macs

MEBI = 2**20


def layer_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of layers, one row per layer. Numbers are not rounded.

    Args:
      found: the result of commands.count.count with per_layer.
    Returns:
      Rows of text, the headings first.
    """
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


def _ask(values: Mapping[str, Any], key: str, part: str | None = None) -> Any:
    """Returns values[part][key], or values[key] without `part`. None if a key is missing."""
    return (values if part is None else values.get(part, {})).get(key)


def summary_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of networks, one column per network. Published figures stand below the figures that they compare with.

    Args:
      found: the result of commands.count.count.
    Returns:
      Rows of text, the headings first, without empty rows.
    """

    def row(title: str, key: str, shown: str, part: str | None = None, unit: float = 1) -> list[str]:
        values = [_ask(one, key, part) for one in found.values()]
        return [title, *("-" if value is None else format(value if unit == 1 else value / unit, shown) for value in values)]

    def published(key: str) -> list[str]:
        return row("    published", key, "", "published")

    pixels = [" x ".join(map(str, one["pixels"])) for one in found.values()]
    kinds = [kind for kind in TITLES if any(one["macs"][kind] for one in found.values())]
    rows = [
        ["", *found],
        ["pixels", *pixels],
        *([TITLES[kind], *(f"{one['macs'][kind]:,}" for one in found.values())] for kind in kinds),
        row("OPs, G", "ops", ".5g", unit=1e9),
        row("degree of binarization, %", "degree", ".2f"),
        row("parameters", "parameters", ","),
        row("binary weights", "binary_weights", ","),
        row("packed, MiB", "bytes", ".3f", unit=MEBI),
        published("mebibytes"),
        row("in float32, MiB", "bytes_float32", ".1f", unit=MEBI),
        row("training checkpoint, MiB", "bytes_checkpoint", ".1f", unit=MEBI),
        row("with 8 and 4 bits: OPs, G", "ops", ".5g", "edition", 1e9),
        row("    rounded as published", "printed_gops", ".3f", "edition"),
        published("ops"),
        row("with 8 and 4 bits: degree, %", "degree", ".2f", "edition"),
        row("    rounded as published", "printed_degree", ".3f", "edition"),
        published("degree"),
        row("quantized edition: packed, MiB", "bytes_edition", ".3f", unit=MEBI),
        published("quantized"),
    ]
    return [line for line in rows if set(line[1:]) != {"-"}]
