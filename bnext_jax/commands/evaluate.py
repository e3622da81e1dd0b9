"""The command `evaluate`: top-1 and top-5 of a network over every image of a split, each counted once."""

import jax

from bnext_jax.config import flat_json, from_json
from bnext_jax.data import pipeline
from bnext_jax.data import store as sources
from bnext_jax.errors import UserError
from bnext_jax.host.process import revision
from bnext_jax.io import checkpoint
from bnext_jax.io import load as networks
from bnext_jax.nn import network as state
from bnext_jax.train import cluster, evaluator, mesh, watch
from bnext_jax.train.programs import check_input, precision_type


def evaluate(directory, config=None, predictions=None, gate_bits=None):
    """Evaluates the newest readable checkpoint of a work directory, or the network in a PyTorch file.

    Args:
      directory: the work directory or file. config: whose dataset and batch size to use; None = those of the checkpoint,
        which a converted network and a PyTorch file do not have.
        Images are scaled by the network's own mean and std; by the config's where a PyTorch file does not say them.
      predictions: a CSV file to write, one row an image, see evaluator.Predictions; None = none.
      gate_bits: "4" or "8", evaluates the network as the quantised edition, see networks.load; None = as it is.
    Returns:
      {"top1", "top5" (percent), "loss" (nats), "examples", "step", "temperature", "binary", "precision", "model",
      "arguments" (the network's, see create_model), "predictions"}.
    Raises:
      UserError: no readable checkpoint, no config, or classes that are not the dataset's.
    """
    model, metadata = cluster.agree(lambda: networks.load(directory, gate_bits=gate_bits))
    if config is None and metadata["config"] is None:
        raise UserError(f"{directory} does not say on which dataset; add --config=configs/NAME.py")
    config = config or from_json(metadata["config"]).check()
    source = cluster.agree(lambda: sources.open_source(config.data, config.data.eval_split))
    if not networks.fits_classes(metadata, source.class_names):
        raise UserError(
            f"{directory} was trained on {metadata['model']['num_classes']} classes that are not the {len(source.class_names)} of"
            f" {config.data.name}; evaluate it with its own dataset"
        )
    network, params, batch_stats = state.split(model, training=False)
    facts = {"commit": revision(), "step": metadata["step"], "images": len(source), "dataset": sources.checksum(config.data)}
    facts |= {"gate_bits": gate_bits, "weights": checkpoint.comparable({**params, **batch_stats})}
    cluster.check_equal({**flat_json(config), **facts})
    shardings = mesh.make_shardings()
    mesh.check_batch("eval_batch_size", config.eval_batch_size, None, jax.device_count())
    variables = shardings.put({**params, **batch_stats})
    check_input(network, variables, pipeline.image_shape(source, config.data.eval_transform))
    dtype = precision_type(config.precision)
    scale = metadata["preprocessing"] or {"mean": config.data.mean, "std": config.data.std}
    eval_step = evaluator.make_eval_step(network, shardings, mean=tuple(scale["mean"]), std=tuple(scale["std"]), dtype=dtype)
    rows = evaluator.Predictions(source) if predictions else None
    found = evaluator.evaluate(eval_step, variables, source, shardings, config.data, config.eval_batch_size, predictions=rows)
    if rows is not None:
        rows.write(predictions)
    return {
        **found,
        "step": metadata["step"],
        "temperature": metadata["temperature"],
        "binary": watch.is_binary(network.latent, variables, metadata["temperature"]),
        "precision": str(dtype),
        "model": metadata["model"]["name"],
        "arguments": metadata["model"]["arguments"],
        **({"predictions": str(predictions)} if predictions else {}),
    }
