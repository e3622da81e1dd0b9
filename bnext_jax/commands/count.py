"""The command `count`: what networks compute and weigh, as a table."""

import sys

from bnext_jax.analysis import tables
from bnext_jax.analysis.count import PUBLISHED, RESOLUTION, measure
from bnext_jax.analysis.count_rows import layer_rows, summary_rows
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress
from bnext_jax.io.load import describe, edition_arguments
from bnext_jax.models.table import MODELS, abstract_model, entry, model_config


def count(checkpoint=None, model=(), widths=(), classes=None, resolution=None, gate_bits=None, per_layer=False, output=None):
    """Counts networks, and prints the table on standard error.

    Args:
      checkpoint: a work directory or PyTorch file, counted instead of models.
      model: names of models; () = the published ones.
      widths: of a BNext of your own, instead of names.
      classes: outputs of the classifier; None = 1000.
      resolution: pixels a side; None = 224, or a checkpoint's own.
      gate_bits: 4 or 8: as the quantized edition; None = as it is.
      per_layer: a table of layers instead of one of networks.
      output: a table to write, .md or .csv.
    Returns:
      {name: {"pixels": [height, width], "macs": {kind: multiply-accumulates of an image}, "ops", "degree" (percent), weigh()'s, "edition":
      {"macs", "ops", "degree"} in the quantized edition's reading, "published": the authors' figures, and with them "printed_gops",
      "printed_degree" in "edition", which are rounded as theirs; "layers" if asked for}}.
    Raises:
      UserError: an unknown model, arguments that do not go together, a network that cannot be counted, a file that cannot be written.
    """
    path = tables.file_path(output) if output else None
    for name, value in (("classes", classes), ("resolution", resolution)):
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be 1 or more")
    if checkpoint:
        chosen, size = _of_checkpoint(checkpoint, model, widths, classes, gate_bits)
    else:
        chosen, size = _of_names(model, widths, classes or 1000, gate_bits), None
    size = (resolution,) * 2 if resolution else size or (RESOLUTION,) * 2
    found = {}
    with Progress("count", len(chosen), 0) as progress:
        for name, classes, arguments in chosen:
            found[name] = measure(name, abstract_model(name, classes, **arguments), size, per_layer)
            progress.step()
    rows = layer_rows(found) if per_layer else summary_rows(found)
    print(tables.text(rows), file=sys.stderr)
    if path:
        tables.save(rows, path)
    return found


def _of_checkpoint(checkpoint, model, widths, classes, gate_bits):
    """([(name, classes, arguments)], (height, width) or None) of a network in a file."""
    given = [f"--{flag}" for flag, value in (("model", model), ("widths", widths), ("classes", classes)) if value]
    if given:
        raise UserError(f"count takes --checkpoint or {', '.join(given)}, not both")
    metadata = describe(checkpoint, gate_bits)
    described = metadata["model"]
    shape = (metadata["preprocessing"] or {}).get("image_shape")
    return [(described["name"], described["num_classes"], described["arguments"])], shape and tuple(shape[:2])


def _of_names(names, widths, classes, gate_bits):
    """[(name, classes, arguments)] of networks by name, or of a BNext by its widths."""
    arguments = {}
    if widths:
        if tuple(names) not in ((), ("bnext",)):
            raise UserError(f"--widths are those of the model bnext; leave --model={','.join(names)} out")
        names, arguments = ("bnext",), {"widths": tuple(widths)}
    elif "bnext" in names:
        raise UserError(f"model bnext has no widths of its own; add --widths=32,64,128, or name one of: {', '.join(MODELS)}")
    for name in names:
        entry(name)
    if not names:
        names = [name for name in PUBLISHED if gate_bits is None or model_config(name).edition(gate_bits)]
    return [(name, classes, edition_arguments(name, arguments, gate_bits) if gate_bits else arguments) for name in names]
