"""Fine-tuning: starts a run from the weights of a trained network (config.init)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from bnext_jax.errors import UserError, naming
from bnext_jax.io.load import load
from bnext_jax.models.base import NetworkConfig
from bnext_jax.models.table import model_config
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.network import split

LOW_BITS = ("gate_bits", "stem_bits", "classifier_bits")


def _complete(described: Mapping[str, Any]) -> tuple[type[NetworkConfig], dict[str, Any]]:
    """Returns the class of a network's config and all its arguments, defaults included. For `described` see start_from."""
    config = model_config(described["name"], described["num_classes"], **described["arguments"])
    return type(config), dataclasses.asdict(config)


def start_from(
    path: os.PathLike | str,
    described: Mapping[str, Any],
    params: Mapping[str, jax.Array],
    batch_stats: Mapping[str, jax.Array],
    new_head: bool = False,
    fresh_latent: bool = False,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Replaces the variables of a fresh network with those of a trained network.

    A variable keeps its fresh value if the trained network has no variable of that path and shape. This is how a new classifier and the
    clip limits of low-bit layers stay fresh. The trained network may be another stage of the same network (models.stages): real weights
    become latent weights.

    Args:
      path: work directory or PyTorch file of the trained network.
      described: {"name", "num_classes", "arguments"} of the fresh network.
      params: parameters of the fresh network, {path: array}.
      batch_stats: all other variables of the fresh network, {path: array}.
      new_head: keep the fresh classifier if the trained network has another number of classes.
      fresh_latent: keep the fresh weights of all binary convolutions, real or latent. The published code of ReActNet-A does so in its
        second step, because the names of these weights differ in its two steps; the paper takes them over.
    Returns:
      (params, batch_stats) with the trained values.
    Raises:
      UserError: the trained network is not the one in `described`, or it has another number of classes and new_head is False, or it has
        no binary convolutions and fresh_latent is True.
    """
    with naming("config.init"):
        model, metadata = load(path, form="float")
    (cls, ours), (other, theirs) = _complete(described), _complete(metadata["model"])
    if cls is not other:
        raise UserError(f"config.init {path} holds {metadata['model']['name']}, but config.model names another network")
    quantizes = theirs.get("gate_bits") is None  # a float network may start a run that has low-bit layers
    free = (*(LOW_BITS if quantizes else ()), *cls.free)
    differing = [f"{key} {theirs[key]} (config.model: {ours[key]})" for key in theirs if theirs[key] != ours[key] and key not in free]
    if differing:
        raise UserError(f"config.init {path} holds a network with {', '.join(differing)}; they must be the same")
    classes, known = described["num_classes"], metadata["model"]["num_classes"]
    if known != classes and not new_head:
        raise UserError(
            f"config.init {path} knows {known} classes, the dataset has {classes}; --config.init_new_head=True starts with a fresh"
            " classifier"
        )
    _, trained, statistics = split(model, training=False)
    found = {**trained, **statistics}
    if fresh_latent:
        modules = nnx.iter_modules(model)
        kernels = {"/".join(map(str, (*path, "kernel"))) for path, module in modules if isinstance(module, BinaryConv)}
        if not kernels:
            raise UserError(f"config.init_fresh_latent is True, but {metadata['model']['name']} has no binary convolutions; leave it out")
        found = {key: value for key, value in found.items() if key not in kernels}

    def chosen(flat):
        return {key: found[key] if key in found and found[key].shape == value.shape else value for key, value in flat.items()}

    return chosen(params), chosen(batch_stats)
