"""The command `convert`: converts a file of PyTorch, Keras or Flax to a work directory, or a trained network to a PyTorch file."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from bnext_jax.analysis.count import weigh
from bnext_jax.data.preprocessing import CHECKSUM, Given, reported
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io import buckets, foreign, sidecar
from bnext_jax.io.load import load
from bnext_jax.io.paths import to_path
from bnext_jax.io.save import save
from bnext_jax.io.torch import torch_files
from bnext_jax.models.base import told_temperature

log = logging.getLogger(__name__)


@contextlib.contextmanager
def _located(source: str, output: str, model: str | None, gate_bits: int | None, weights: str | None) -> Iterator[tuple[str, str | None]]:
    """Yields (path, name of the model or None) for a source. Downloads the weights if the source is a teacher's tag.

    If a teacher's output is a safetensors file, the downloaded file itself becomes the output, so its published checksum stays valid.
    It is deleted again if the network in it is not the expected one.
    """
    if source not in roster.ROSTER or to_path(source).exists():
        yield source, model
        return
    if model not in (None, roster.ROSTER[source].model) or gate_bits or weights:
        raise UserError(f"{source} is {roster.ROSTER[source].model}; leave --model, --gate_bits and --weights out")
    with tempfile.TemporaryDirectory() as folder:
        path = output if torch_files.kind(output) == torch_files.SAFE else f"{folder}/{source}.safetensors"
        if to_path(f"{path}.sha256").exists():
            raise UserError(f"{path}.sha256 exists; remove it or name another --output")
        roster.fetch(source, path)
        try:
            yield path, roster.ROSTER[source].model
        except UserError:
            for made in (path, f"{path}.sha256"):
                os.unlink(made)
            raise


def convert(
    source: str,
    output: str,
    model: str | None = None,
    gate_bits: int | None = None,
    weights: str | None = None,
    preprocessing: str | None = None,
) -> dict[str, Any]:
    """Converts a network. The suffix of `output` selects the direction: a PyTorch file, or a work directory for any other path.

    Args:
      source: a file of PyTorch, Keras or Flax, a work directory, a packed file (its weights become +1 and -1), or the tag of a teacher
        (bnext_jax.distill.roster.ROSTER), whose weights are downloaded.
      output: the file or folder to write; it must not exist.
      model: the expected name of the network, or None.
      gate_bits: 4 or 8, for the quantized edition. A published file of it does not record the bits of its gates: this is their number.
        Any other network is quantized. None = the network as it is.
      weights: which weights to take if the source holds several, see io.load.load.
      preprocessing: how images were scaled for the weights, see io.sidecar.parsed. It is written with the network.
    Returns:
      {"model", "num_classes", "arguments", "parameters", "epoch", "temperature" (if the network takes one), "preprocessing" (None =
      unknown), "source", "output"}.
    Raises:
      UserError: the source cannot be read or does not fit, or the output exists, has the suffix of a Keras or Flax file,
        or cannot be written.
    """
    place = to_path(output, "--output")
    foreign.check_output(output)
    buckets.check(place, "--output")
    if place.exists():
        raise UserError(f"{output} exists; remove it or name another --output")
    given = None if preprocessing is None else sidecar.parsed(preprocessing)
    with _located(source, output, model, gate_bits, weights) as (path, expected):
        if path != source and given is None:
            teacher = roster.ROSTER[source]
            given = Given(CHECKSUM, teacher.mean, teacher.std, teacher.size, crop=teacher.crop)
        log.info("reading %s", path)
        network, metadata = load(path, expected, gate_bits, form="float", weights=weights, given=given)
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
        **told_temperature(metadata["temperature"]),
        "preprocessing": reported(metadata) if metadata.get("preprocessing") else None,
        "source": str(source),
        "output": str(output),
    }
