"""The command `convert`: a PyTorch file to a work directory of ours, or a network of ours to a PyTorch file."""

import contextlib
import logging
import os
import pathlib
import tempfile

from bnext_jax.analysis.count import weigh
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.save import save
from bnext_jax.io.torch import torch_files

log = logging.getLogger(__name__)


@contextlib.contextmanager
def _located(source, output, model, gate_bits):
    """(path, name of the model or None) behind a source; the tag of a teacher is fetched.

    A safetensors output is then the hub's own file, so that its checksum stays true; it goes again where it does not fit.
    """
    if source not in roster.ROSTER or pathlib.Path(source).exists():
        yield source, model
        return
    if model not in (None, roster.ROSTER[source].model) or gate_bits:
        raise UserError(f"{source} is {roster.ROSTER[source].model}; leave --model and --gate_bits out")
    with tempfile.TemporaryDirectory() as folder:
        path = output if torch_files.kind(output) == torch_files.SAFE else f"{folder}/{source}.safetensors"
        if pathlib.Path(f"{path}.sha256").exists():
            raise UserError(f"{path}.sha256 exists; remove it or name another --output")
        roster.fetch(source, path)
        try:
            yield path, roster.ROSTER[source].model
        except UserError:
            for made in (path, f"{path}.sha256"):
                os.unlink(made)
            raise


def convert(source, output, model=None, gate_bits=None):
    """Converts; the direction follows from `output`: a PyTorch file by its suffix, else a work directory.

    Args:
      source: a PyTorch file, a work directory, or the tag of a teacher (bnext_jax.distill.roster.ROSTER), which is fetched.
      output: what to write; it must not exist. model: the network's name, as a check.
      gate_bits: 4 or 8, for the quantized edition: of a published file of it, which does not say its bits; other networks
        are quantized.
    Returns:
      {"model", "num_classes", "arguments", "parameters", "epoch", "temperature", "source", "output"}.
    Raises:
      UserError: a source that cannot be read or does not fit, an output that exists or cannot be written.
    """
    if pathlib.Path(output).exists():
        raise UserError(f"{output} exists; remove it or name another --output")
    with _located(source, output, model, gate_bits) as (path, expected):
        log.info("reading %s", path)
        network, metadata = load(path, expected, gate_bits)
    described = metadata["model"]
    log.info("writing %s, %s with %d classes", output, described["name"], described["num_classes"])
    if path != output:
        save(output, network, metadata)
    return {
        "model": described["name"],
        "num_classes": described["num_classes"],
        "arguments": described["arguments"],
        "parameters": weigh(network)["parameters"],
        "epoch": metadata["epoch"],
        "temperature": metadata["temperature"],
        "source": str(source),
        "output": str(output),
    }
