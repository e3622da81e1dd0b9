"""A packed file as a network that every command takes: the engine in C where it runs, else the form in XLA."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from bnext_jax.errors import UserError
from bnext_jax.io.buckets import local_copy
from bnext_jax.io.paths import to_path
from bnext_jax.models.base import TableModel
from bnext_jax.models.table import takes_temperature
from bnext_jax.packed import build, file
from bnext_jax.packed.engine import Engine
from bnext_jax.packed.unpack import check, described_model, restored, simulated

ENGINE, XLA, FLOAT = "engine", "xla", "float"
FORMS = (ENGINE, XLA, FLOAT)


class PackedNetwork(TableModel):
    """A packed network that the engine in C computes. It cannot be trained.

    Args:
      engine: the open file.
      described: the network that the file describes, with shapes in place of arrays.
    """

    def __init__(self, engine: Engine, described: TableModel) -> None:
        self.engine = engine
        self.config = described.config
        self.stride = described.total_stride

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        return self.stride

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, see TableModel."""
        return self.engine.traced(images)


def metadata_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a packed network, as io.load.load returns them; "packed" is True. `description` is that of packed.file.read."""
    temperature = 0.0 if takes_temperature(description["model"]["name"]) else None
    return {**description, "temperature": temperature, "config": None, "packed": True}


def _form(description, tensors, form):
    """The form to use. Raises UserError if `form` is not one, or does not run here."""
    if form not in (None, *FORMS):
        raise UserError(f"there is no form {form!r} of a packed network; one of: {', '.join(FORMS)}")
    if form == ENGINE and (why := build.reason()):
        raise UserError(f"the engine does not run here: {why}")
    if form is not None:
        return form
    if jax.default_backend() != "cpu" or file.PROGRAM not in tensors:
        return XLA
    return XLA if build.reason() else ENGINE


def load(path: os.PathLike | str, form: str | None = None, threads: int = 0) -> tuple[TableModel, dict[str, Any]]:
    """Loads a packed file.

    Args:
      path: the file, on a disk or in a bucket.
      form: "engine" = the engine in C; "xla" = packed convolutions in XLA, for every backend; "float" = a plain network whose latent
        weights are +1 and -1. None = the engine on CPUs if it can be built and knows the network, else XLA.
      threads: threads that the engine may use for one call; 0 = all processors.
    Returns:
      (the network as an evaluation view, its metadata as io.load.load returns it).
    Raises:
      UserError: the file cannot be read, is damaged, or does not fit the network that it describes; there is no such form.
    """
    with local_copy(to_path(path)) as place:
        description, tensors = file.read(place)
        form = _form(description, tensors, form)
        if form == FLOAT:
            plain = {key: value for key, value in metadata_of(description).items() if key not in ("packed", "format", "zero_weights")}
            return simulated(description, tensors), plain
        if form == XLA:
            return restored(description, tensors), metadata_of(description)
        described = described_model(description)
        check(described, tensors, description["source"])
        return PackedNetwork(Engine(place, threads), described), metadata_of(description)
