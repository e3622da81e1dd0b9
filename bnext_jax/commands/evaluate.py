"""The command `evaluate`: measures top-1 and top-5 of a network on a split. Every image counts once."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from bnext_jax.config import Config
from bnext_jax.config_json import flat_json, from_json
from bnext_jax.data import pipeline, splits, store
from bnext_jax.data.preprocessing import CONFIGURATION, Given, changed, of, origin
from bnext_jax.errors import UserError
from bnext_jax.host.process import revision
from bnext_jax.io import sidecar
from bnext_jax.io.digest import comparable
from bnext_jax.io.load import fits_classes, load
from bnext_jax.models.base import told_temperature
from bnext_jax.nn.network import split
from bnext_jax.training import cluster, evaluator, mesh, watch
from bnext_jax.training.programs import check_input, precision_type


def evaluate(
    checkpoint: os.PathLike | str,
    config: Config | None = None,
    predictions: os.PathLike | str | None = None,
    gate_bits: int | None = None,
    weights: str | None = None,
    preprocessing: str | None = None,
) -> dict[str, Any]:
    """Evaluates the network in a work directory, a PyTorch file or a packed file.

    Args:
      checkpoint: a work directory (its newest readable checkpoint is used), a PyTorch file or a packed file.
      config: see evaluate_network.
      predictions: see evaluate_network.
      gate_bits: 4 or 8 = evaluate the quantized edition, see io.load.load. None = the network as it is.
      weights: which weights to take if a PyTorch file holds several, see io.load.load.
      preprocessing: how images were scaled for the weights, see io.sidecar.parsed. A size or a crop also replaces the config's
        eval_transform.
    Returns:
      See evaluate_network.
    Raises:
      UserError: no network can be read; also see evaluate_network.
    """
    given = None if preprocessing is None else cluster.agree(lambda: sidecar.parsed(preprocessing))
    complete = given if given is not None and given.complete else None  # what it leaves open may be the config's
    model, metadata = cluster.agree(lambda: load(checkpoint, gate_bits=gate_bits, weights=weights, given=complete))
    return evaluate_network(model, metadata, checkpoint, config, predictions, given)


def evaluate_network(
    model: nnx.Module,
    metadata: Mapping[str, Any],
    name: os.PathLike | str,
    config: Config | None = None,
    predictions: os.PathLike | str | None = None,
    given: Given | None = None,
) -> dict[str, Any]:
    """Evaluates a loaded network.

    Args:
      model: the network, from io.load.load.
      metadata: the network's metadata, from io.load.load.
      name: the network's name in messages.
      config: a checked Config with the dataset, batch size and precision. None = the configuration in the checkpoint; a converted network
        and a PyTorch file have none. Images are scaled by the network's own mean and std, or by the config's if the file records none.
      predictions: a CSV file to write, one row per image, see evaluator.Predictions. None = no file.
      given: what the user says of the preprocessing. If it says anything of the size or the crop, the network's eval_transform applies, in
        place of the config's.
    Returns:
      {"top1", "top5" (percent), "loss" (nats), "examples", "step", "temperature" (if the network takes one), "binary", "precision",
      "preprocessing", "model", "arguments" (the network's, see create_model), "predictions" (the file, if one is written)}.
    Raises:
      UserError: no configuration, or the network has other classes than the dataset.
    """
    if config is None and metadata["config"] is None:
        raise UserError(f"{name} does not name its dataset; add --config=configs/NAME.py")
    config = config or from_json(metadata["config"]).check()
    transforms = given is not None and given.transforms
    if given is not None:
        metadata = changed(metadata, given, config.data)
    if transforms:
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, eval_transform=metadata["preprocessing"]["eval_transform"])
        )
    source = cluster.agree(lambda: splits.open_source(config.data, config.data.eval_split))
    described = metadata["model"]
    if not fits_classes(metadata, source.class_names):
        raise UserError(
            f"{name} was trained on {described['num_classes']} classes, which are not the {len(source.class_names)} classes of"
            f" {config.data.name}; evaluate it on its own dataset"
        )
    network, params, batch_stats = split(model, training=False)
    facts = {"commit": revision(), "step": metadata["step"], "images": len(source), "dataset": store.checksum(config.data)}
    facts |= {"arguments": described["arguments"], "weights": comparable({**params, **batch_stats})}
    cluster.check_equal({**flat_json(config), **facts})
    shardings = mesh.make_shardings()
    mesh.check_batch("eval_batch_size", config.eval_batch_size, None, jax.device_count())
    variables = shardings.put({**params, **batch_stats})
    check_input(network, variables, pipeline.image_shape(source, config.data.eval_transform))
    dtype = precision_type(config.precision)
    scale = of(metadata, config.data)
    used = {"mean": scale["mean"], "std": scale["std"], "eval_transform": config.data.eval_transform}
    source_of = origin(metadata, config.data)
    used["from"] = source_of if transforms or source_of == CONFIGURATION else f"{source_of}; eval_transform: {CONFIGURATION}"
    eval_step = evaluator.make_eval_step(network, shardings, mean=tuple(scale["mean"]), std=tuple(scale["std"]), dtype=dtype)
    rows = evaluator.Predictions(source, config.eval_batch_size) if predictions else None
    found = evaluator.evaluate(eval_step, variables, source, shardings, config.data, config.eval_batch_size, predictions=rows)
    if rows is not None and predictions is not None:
        rows.write(predictions)
    return {
        **found,
        "step": metadata["step"],
        **told_temperature(metadata["temperature"]),
        "binary": metadata.get("packed", False) or watch.is_binary(network, variables, metadata["temperature"]),
        "precision": str(dtype),
        "preprocessing": used,
        "model": described["name"],
        "arguments": described["arguments"],
        **({"predictions": str(predictions)} if predictions else {}),
    }
