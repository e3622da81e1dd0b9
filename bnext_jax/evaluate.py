"""The command `evaluate`: top-1 and top-5 of a work directory's network over every image of a split, each counted once."""

import jax

from bnext_jax.config import from_json
from bnext_jax.data import sources
from bnext_jax.errors import UserError
from bnext_jax.train import checkpoint, evaluator, mesh, state, watch
from bnext_jax.train.loop import check_input, precision_type


def evaluate(directory, config=None):
    """Evaluates the newest readable checkpoint of a work directory.

    Args:
      directory: the work directory. config: whose dataset and batch size to use; None = those of the checkpoint.
    Returns:
      {"top1", "top5" (percent), "loss" (nats), "examples", "step", "temperature", "binary", "precision", "model"}.
    Raises:
      UserError: no readable checkpoint, or classes that are not the dataset's.
    """
    model, metadata = checkpoint.load_network(directory)
    config = config or from_json(metadata["config"]).check()
    source = sources.open_source(config.data, config.data.eval_split)
    if list(source.class_names) != metadata["class_names"]:
        raise UserError(
            f"{directory} was trained on {len(metadata['class_names'])} classes that are not the {len(source.class_names)} of"
            f" {config.data.name}; evaluate it with its own dataset"
        )
    shardings = mesh.make_shardings()
    mesh.check_batch("eval_batch_size", config.eval_batch_size, None, jax.device_count())
    network, params, batch_stats = state.split(model, training=False)
    variables = shardings.put({**params, **batch_stats})
    check_input(network, variables, tuple(metadata["preprocessing"]["image_shape"]))
    dtype = precision_type(config.precision)
    scale = {name: tuple(metadata["preprocessing"][name]) for name in ("mean", "std")}
    eval_step = evaluator.make_eval_step(network, shardings, dtype=dtype, **scale)
    return {
        **evaluator.evaluate(eval_step, variables, source, shardings, config.data, config.eval_batch_size),
        "step": metadata["step"],
        "temperature": metadata["temperature"],
        "binary": watch.is_binary(network.latent, variables, metadata["temperature"]),
        "precision": str(dtype),
        "model": metadata["model"]["name"],
    }
