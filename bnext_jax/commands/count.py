"""The command `count`: a table of the operations and sizes of networks."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bnext_jax.analysis import tables
from bnext_jax.analysis.count import PUBLISHED, RESOLUTION, measure
from bnext_jax.analysis.count_rows import layer_rows, summary_rows
from bnext_jax.analysis.degrees import ROWS, degree_rows, degrees
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress
from bnext_jax.io.load import describe, edition_arguments
from bnext_jax.io.paths import Path
from bnext_jax.models.table import MODELS, abstract_model, entry, model_config


def count(
    checkpoint: str | None = None,
    model: Sequence[str] = (),
    widths: Sequence[int] = (),
    arguments: Mapping[str, Any] | None = None,
    classes: int | None = None,
    resolution: int | None = None,
    gate_bits: int | None = None,
    per_layer: bool = False,
    table: bool = False,
    output: str | None = None,
    weights: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Counts networks, and prints the table on standard error.

    Args:
      checkpoint: a work directory or a PyTorch file, instead of names or widths.
      model: names of models. () = the published BNext networks.
      widths: channels of your own BNext, of the stem, then of each block, instead of names.
      arguments: arguments of the networks that `model` names, see models.table.create_model.
      classes: number of classes. None = 1000.
      resolution: height and width of the image, in pixels. None = the checkpoint's own size, or 224.
      gate_bits: 4 or 8 = count the quantized edition. None = the network as it is.
      per_layer: print a table of layers instead of a table of networks.
      table: print the table of degrees of binarization instead (analysis.degrees). Only `output` may be given with it.
      output: a file to write the table to, .md or .csv. None = none.
      weights: which weights to take if a PyTorch file holds several, see io.load.load.
    Returns:
      {name: figures}, where figures holds
        "pixels": [height, width] of the image;
        "macs": {kind: multiply-accumulates for one image};
        "ops" and "degree": OPs, and the degree of binarization in percent;
        the result of `weigh`;
        "edition", for binary networks: {"macs", "ops", "degree"} with the bits of the quantized edition;
        "published", for a published network: the authors' figures. "edition" then also holds "printed_gops" and "printed_degree", which
          are rounded as the authors rounded them;
        "layers", with per_layer: one dict per layer.
      With `table`: see analysis.degrees.degrees.
    Raises:
      UserError: an unknown model, arguments that exclude each other, a network that cannot be counted, a file that cannot be written.
    """
    path = tables.file_path(output) if output else None
    if table:
        others = {
            "checkpoint": checkpoint, "model": model, "widths": widths, "arguments": arguments, "classes": classes,
            "resolution": resolution, "gate_bits": gate_bits, "per_layer": per_layer, "weights": weights,
        }  # fmt: skip
        given = [f"--{flag}" for flag, value in others.items() if value]
        if given:
            raise UserError(f"--table counts the networks of one published table; leave {', '.join(given)} out")
        return _table(path)
    for name, value in (("classes", classes), ("resolution", resolution)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be 1 or more")
    if checkpoint:
        chosen, size = _of_checkpoint(checkpoint, model, widths, arguments, classes, gate_bits, weights)
    elif weights is not None:
        raise UserError("--weights chooses in a PyTorch file; leave it out, or give --checkpoint=PATH")
    else:
        chosen, size = _of_names(model, widths, arguments or {}, classes or 1000, gate_bits), None
    size = (resolution,) * 2 if resolution else size or (RESOLUTION,) * 2
    found: dict[str, dict[str, Any]] = {}
    with Progress("count", len(chosen), 0) as progress:
        for name, classes, chosen_arguments in chosen:
            found[name] = measure(name, abstract_model(name, classes, **chosen_arguments), size, per_layer)
            progress.step()
    rows = layer_rows(found) if per_layer else summary_rows(found)
    print(tables.text(rows), file=sys.stderr)
    if path:
        tables.save(rows, path)
    return found


def _table(path: Path | None) -> dict[str, dict[str, Any]]:
    """Counts the networks of analysis.degrees. Prints their table, and below it the notes. Writes both to `path`, if it is not None."""
    found: dict[str, dict[str, Any]] = {}
    with Progress("count", len(ROWS), 0) as progress:
        for name, values in degrees():
            found[name] = values
            progress.step()
    rows = degree_rows(found)
    notes = [f"{name}: {note}" for name, *_, note in rows[1:]]
    print(tables.text([row[:-1] for row in rows]), "", *notes, sep="\n", file=sys.stderr)
    if path:
        tables.save(rows, path)
    return found


def _of_checkpoint(
    checkpoint: str,
    model: Sequence[str],
    widths: Sequence[int],
    arguments: Mapping[str, Any] | None,
    classes: int | None,
    gate_bits: int | None,
    weights: str | None,
) -> tuple[list[tuple[str, int, dict]], tuple[int, ...] | None]:
    """Returns ([(name, classes, arguments)], (height, width) or None) of the network in a file. Raises UserError for other arguments."""
    given = [f"--{flag}" for flag, value in (("model", model), ("widths", widths), ("arguments", arguments), ("classes", classes)) if value]
    if given:
        raise UserError(f"count takes --checkpoint or {', '.join(given)}, not both")
    metadata = describe(checkpoint, gate_bits, weights)
    described = metadata["model"]
    shape = (metadata["preprocessing"] or {}).get("image_shape")
    return [(described["name"], described["num_classes"], described["arguments"])], shape and tuple(shape[:2])


def _of_names(
    names: Sequence[str], widths: Sequence[int], arguments: Mapping[str, Any], classes: int, gate_bits: int | None
) -> list[tuple[str, int, dict]]:
    """Returns [(name, classes, arguments)] of networks given by name, or of one BNext given by its widths."""
    if arguments and not names and not widths:
        raise UserError("--arguments are those of the models that you name; add --model=NAME")
    if widths:
        if tuple(names) not in ((), ("bnext",)):
            raise UserError(f"--widths builds the model bnext; leave --model={','.join(names)} out")
        if "widths" in arguments:
            raise UserError("the widths stand in --widths and in --arguments; leave one of them out")
        names, arguments = ("bnext",), {**arguments, "widths": tuple(widths)}
    elif "bnext" in names and "widths" not in arguments:
        raise UserError(f"model bnext has no widths of its own; add --widths=32,64,128, or name one of: {', '.join(MODELS)}")
    for name in names:
        entry(name)
    if not names:
        names = [name for name in PUBLISHED if gate_bits is None or model_config(name).edition(gate_bits)]
    return [(name, classes, edition_arguments(name, arguments, gate_bits) if gate_bits else dict(arguments)) for name in names]
