"""Writes a network: as a work directory of bnext_jax, or as a PyTorch file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from bnext_jax.errors import UserError
from bnext_jax.io import foreign
from bnext_jax.io.checkpoint import save_network, without_run
from bnext_jax.io.paths import to_path
from bnext_jax.io.torch import torch_files
from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.models.base import TableModel
from bnext_jax.models.table import MODELS, model_config
from bnext_jax.nn.network import split
from bnext_jax.nn.variables import real_until
from bnext_jax.packed.network import PackedNetwork


def described(model: TableModel) -> dict[str, Any]:
    """Describes a network, so that create_model can build it again.

    Args:
      model: a network of models.table.MODELS.
    Returns:
      {"name", "num_classes", "arguments"}, the arguments of create_model.
    Raises:
      UserError: the network is not one of the table.
    """
    names = {name: entry for name, entry in MODELS.items() if entry.network is type(model)}
    if not names:
        if isinstance(model, PackedNetwork):
            raise UserError('a packed network has no weights to write; load its file with form="float"')
        raise UserError(
            f"{type(model).__name__} is no network of bnext_jax.MODELS, so no command could read it; save its nnx.State with Orbax"
        )
    classes, fields = model.classifier.kernel.shape[-1], dataclasses.fields(model.config)
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    for name, entry in names.items():
        if needed <= entry.arguments.keys() and model_config(name, classes) == model.config:
            return {"name": name, "num_classes": classes, "arguments": {}}
    family = next(name for name, entry in names.items() if not entry.arguments)
    arguments = {field.name: getattr(model.config, field.name) for field in fields}
    defaults = {field.name: field.default for field in fields}
    return {"name": family, "num_classes": classes, "arguments": {k: v for k, v in arguments.items() if v != defaults[k]}}


def save(path: os.PathLike | str, model: TableModel, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes a network atomically.

    Args:
      path: the file or folder to write; it must not exist. With the suffix of a PyTorch file (.pth.tar, .pth, .pt, .bin, .safetensors)
        it becomes a PyTorch file, otherwise a work directory.
      model: a network from create_model or load.
      metadata: the description that `load` returns; None = made from the model.
    Raises:
      UserError: the path exists, has the suffix of a Keras or Flax file, or cannot be written; the network is not one of
        models.table.MODELS; or its weights are real where the PyTorch file cannot say so.

    Example:
      model = create_model("bnext_tiny", 10, rngs=nnx.Rngs(0))
      save("tiny.safetensors", model)
      model, metadata = load("tiny.safetensors")
    """
    foreign.check_output(path)
    if to_path(path).exists():
        raise UserError(f"{path} exists; remove it or name another file")
    metadata = metadata or without_run(model, described(model))
    told = {key: metadata[key] for key in ("preprocessing", "preprocessing_from") if metadata.get(key)}
    if torch_files.kind(path):
        when = real_until(model)
        if when is not None:
            raise UserError(
                f"the weights of this network are real until {when} of its training, and a PyTorch file cannot say so; train it further, or"
                " write a work directory"
            )
        if not torch_files.has_notes(path) and not getattr(model.config, "binary_weights", True):
            raise UserError(
                f"the weights of this network are real (binary_weights=False), and {path} has no place to say so; write NAME.safetensors,"
                " NAME.pth.tar or a work directory"
            )
        temperature = metadata["temperature"] if hasattr(model, "temperature") else None
        torch_files.write(path, to_state_dict(model), epoch=metadata["epoch"], temperature=temperature, described=metadata["model"] | told)
    else:
        _, params, batch_stats = split(model, training=False)
        save_network(path, params, batch_stats, metadata)
