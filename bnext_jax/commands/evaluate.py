"""The command `evaluate`: top-1 and top-5 of a network over every image of a split, each counted once."""

import jax

from bnext_jax.config import flat_json, from_json
from bnext_jax.data import pipeline, preprocessing, splits, store
from bnext_jax.errors import UserError
from bnext_jax.host.process import revision
from bnext_jax.io.digest import comparable
from bnext_jax.io.load import fits_classes, load
from bnext_jax.nn.network import split
from bnext_jax.training import cluster, evaluator, mesh, watch
from bnext_jax.training.programs import check_input, precision_type


def evaluate(checkpoint, config=None, predictions=None, gate_bits=None):
    """Evaluates whatever holds a network: see evaluate_network.

    Args:
      checkpoint: a work directory, of which the newest readable checkpoint counts, or a PyTorch file.
      config, predictions: see evaluate_network.
      gate_bits: 4 or 8: as the quantized edition, see io.load.load; None = as it is.
    Returns, raises: as evaluate_network; also UserError where no network can be read.
    """
    model, metadata = cluster.agree(lambda: load(checkpoint, gate_bits=gate_bits))
    return evaluate_network(model, metadata, checkpoint, config, predictions)


def evaluate_network(model, metadata, name, config=None, predictions=None):
    """Evaluates a loaded network.

    Args:
      model, metadata: as io.load.load gives them.
      name: of the network, for messages.
      config: whose dataset and batch size to use; None = those of the checkpoint, which a converted network and a PyTorch file do not have.
        Images are scaled by the network's own mean and std; by the config's where a PyTorch file does not say them.
      predictions: a CSV file to write, one row an image, see evaluator.Predictions; None = none.
    Returns:
      {"top1", "top5" (percent), "loss" (nats), "examples", "step", "temperature", "binary", "precision", "model",
      "arguments" (the network's, see create_model), "predictions"}.
    Raises:
      UserError: no config, or classes that are not the dataset's.
    """
    if config is None and metadata["config"] is None:
        raise UserError(f"{name} does not say on which dataset; add --config=configs/NAME.py")
    config = config or from_json(metadata["config"]).check()
    source = cluster.agree(lambda: splits.open_source(config.data, config.data.eval_split))
    described = metadata["model"]
    if not fits_classes(metadata, source.class_names):
        raise UserError(
            f"{name} was trained on {described['num_classes']} classes that are not the {len(source.class_names)} of"
            f" {config.data.name}; evaluate it with its own dataset"
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
    scale = preprocessing.of(metadata, config.data)
    eval_step = evaluator.make_eval_step(network, shardings, mean=tuple(scale["mean"]), std=tuple(scale["std"]), dtype=dtype)
    rows = evaluator.Predictions(source, config.eval_batch_size) if predictions else None
    found = evaluator.evaluate(eval_step, variables, source, shardings, config.data, config.eval_batch_size, predictions=rows)
    if rows is not None:
        rows.write(predictions)
    return {
        **found,
        "step": metadata["step"],
        "temperature": metadata["temperature"],
        "binary": watch.is_binary(network.latent, variables, metadata["temperature"]),
        "precision": str(dtype),
        "model": described["name"],
        "arguments": described["arguments"],
        **({"predictions": str(predictions)} if predictions else {}),
    }
