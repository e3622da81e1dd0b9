"""The degrees of binarization of published binary networks: as BNext's paper prints them, as the networks are, and with 8 and 4 bits.

BNext's paper (Guo et al. 2022, arXiv 2211.12933) compares itself with eight networks in this table. What a network has and what it
computes is read from the network here. Only the published degrees, the training with a teacher and the notes are written down.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from flax import nnx

from bnext_jax.analysis import macs
from bnext_jax.analysis.count import BITS, PUBLISHED, RESOLUTION, as_printed, measure
from bnext_jax.models.base import TableModel
from bnext_jax.models.table import abstract_model
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.layers import PReLU
from bnext_jax.nn.poke_layers import DPReLU

BNEXT = {  # name in models.table -> name in the paper
    "bnext18": "BNext-18",
    "bnext_tiny": "BNext-T",
    "bnext_small": "BNext-S",
    "bnext_middle": "BNext-M",
    "bnext_large": "BNext-L",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One network of the table.

    Attributes:
      model: the network's name in models.table.
      arguments: of the network.
      distilled: whether its recipe trains it with a teacher (knowledge distillation).
      table: the network's name in the published table, None = it is not there.
      published: the published degree in percent, None = it is not there.
      note: how the published degree arises, or why it cannot. "a / (64 x b)" is the degree from binary MACs a and OPs b, both in G.
      said: what the published table says in a column of PARTS, where the network is different.
    """

    model: str
    arguments: dict[str, Any]
    distilled: bool
    table: str | None
    published: float | None
    note: str
    said: dict[str, str] = dataclasses.field(default_factory=dict)


MELIUS = (False, "MeliusNet-18", 16.76, "There is no MeliusNet-18: the number is that of the blocks, plus 5. 16.76 cannot be reproduced.")
ROWS = {
    "BNN-18": Row("bnn18", {}, False, "BNN", 18.07, "1.70 / (64 x 0.147), from published figures."),
    "XNOR-Net-18": Row(
        "xnornet18", {}, False, "XNOR-Net", 18.07,
        "BNN's figures again. With its own published OPs it is 1.70 / (64 x 0.167), which is 15.91.",
    ),
    "XNOR-Net-18, binary shortcuts": Row(
        "xnornet18", {"binary_shortcut": True}, False, "XNOR-Net", 18.07,
        "BNN's figures again, which need binary 1x1 convolutions in the shortcuts.",
    ),
    "Bi-Real-18": Row(
        "birealnet18", {}, False, "BiRealNet-18", 17.86,
        "1.68 / (64 x 0.147), where the OPs are BNN's. With its own published OPs it is 1.68 / (64 x 0.163), which is 16.10.",
        {"PReLU": "yes"},
    ),
    "MeliusNet-22": Row("meliusnet22", {}, *MELIUS),
    "MeliusNet-22, 7x7 stem": Row("meliusnet22", {"stem": "imagenet"}, *MELIUS),
    "MeliusNet-29": Row("meliusnet29", {}, *MELIUS),
    "MeliusNet-29, 7x7 stem": Row("meliusnet29", {"stem": "imagenet"}, *MELIUS),
    "Real-to-Binary": Row(
        "real_to_binary", {}, True, "Real2BinaryNet", 14.34,
        "1.68 / (64 x 0.183). These OPs of its paper count elementwise operations too.",
    ),
    "ReActNet-18": Row(
        "reactnet18", {}, True, "ReActNet-BiR18", 13.89,
        "1.68 / (64 x 0.189), where 0.189 = 0.163 + 1.68 / 64: the binary MACs count twice.",
    ),
    "ReActNet-A": Row(
        "reactnet_a", {}, True, "ReActNet-A", 86.50,
        "Near 4.82 / (64 x 0.087), which is 86.57, and 4.816896 / (64 x 0.087), which is 86.51. Nothing gives 86.50 exactly.",
    ),
    "PokeBNN-2.0x": Row(
        "pokebnn", {"multiplier": 2.0}, True, "PokeBNN-2.0x", 97.15,
        "14.412 / (64 x (14.412 / 64 + 0.0066)): the stem counts as float, with 6.6 M MACs, classifier and gates do not count."
        " If all of them were float, it would be 89.92.",
    ),
    "PokeBNN-1.0x": Row("pokebnn", {"multiplier": 1.0}, True, None, None, "Not in the published table."),
    **{name: Row(model, {}, True, name, PUBLISHED[model].degree, "") for model, name in BNEXT.items()},
}  # fmt: skip


def parts_of(model: TableModel) -> dict[str, str]:
    """Returns what a network has: {"batch norm", "PReLU", "gates": "yes" or "no", "low-bit layers": their bits or "no"}.

    Gates are squeeze-and-excitation (SE) and similar layers: what a quantized edition has with 4 bits.
    """
    modules = [module for _, module in nnx.iter_modules(model)]
    kinds = [macs.kinds_of(variable, module) for _, variable, module in macs.kernels(model)]
    low = sorted({BITS[kind] for kind, _ in kinds} - {1, 32}, reverse=True)
    found = {
        "batch norm": any(isinstance(module, BatchNorm) for module in modules),
        "PReLU": any(isinstance(module, PReLU | DPReLU) for module in modules),
        "gates": any(edition == "int4" for _, edition in kinds),
    }
    return {**{part: "yes" if has else "no" for part, has in found.items()}, "low-bit layers": " and ".join(map(str, low)) or "no"}


def degrees(per_layer: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (the network's name in the table, figures) for 1000 classes and images of 224 pixels. Computes no array.

    The figures are those of count.measure, the row's "model", "arguments" and "note", and
      "table", "published_degree": the network's name and degree in percent in the published table, or None;
      "parts": what the network has, see `parts_of`, with "teacher": "yes" or "no"; "no (table: yes)" where the published table differs.
    "degree" is the degree as built, "edition" has the degree with 8 and 4 bits.

    Args:
      per_layer: see count.measure.
    """
    for name, row in ROWS.items():
        model = abstract_model(row.model, **row.arguments)
        found = measure(row.model, model, (RESOLUTION, RESOLUTION), per_layer)
        parts = {**parts_of(model), "teacher": "yes" if row.distilled else "no"}
        parts = {part: f"{has} (table: {row.said[part]})" if part in row.said else has for part, has in parts.items()}
        note = row.note
        if row.model in PUBLISHED:
            ops, printed = as_printed(found["edition"]["macs"])
            note = f"{found['macs'][macs.BINARY] / 1e9:.2f} / (64 x {ops:.3f}), with 8 and 4 bits."
            if round(printed, 2) != row.published:
                note += f" That is {printed:.3f}; the published degree is cut off, not rounded."
        if not found["macs"][macs.FLOAT]:
            note += f" Its ACE (bits x bits x MACs) is {sum(count * BITS[kind] ** 2 for kind, count in found['macs'].items()):,}."
        yield name, {
            **found, "model": row.model, "arguments": row.arguments, "parts": parts, "table": row.table, "published_degree": row.published,
            "note": note,
        }  # fmt: skip


def degree_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table, one row per network. The last column holds the notes.

    Args:
      found: {name: figures}, see `degrees`.
    Returns:
      Rows of text, the headings first.
    """
    parts = list(next(iter(found.values()))["parts"])
    rows = [["network", *parts, "published as", "published, %", "as built, %", "with 8 and 4 bits, %", "how the published degree arises"]]
    for name, values in found.items():
        published = "-" if values["published_degree"] is None else f"{values['published_degree']:.2f}"
        degrees = f"{values['degree']:.2f}", f"{values['edition']['degree']:.2f}"
        rows.append([name, *values["parts"].values(), values["table"] or "-", published, *degrees, values["note"]])
    return rows
