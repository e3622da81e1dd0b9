"""Fine-tuning: a run that begins with the weights of a trained network (config.init)."""

import dataclasses

from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.models.table import entry, model_config
from bnext_jax.nn.network import split

LOW_BITS = ("gate_bits", "stem_bits", "classifier_bits")


def _complete(described):
    """(class, all arguments with the defaults filled in) of a network. described: see start_from."""
    config = model_config(described["name"], described["num_classes"], **described["arguments"])
    return entry(described["name"]).network, dataclasses.asdict(config)


def start_from(path, described, params, batch_stats, new_head=False):
    """The variables of a fresh network, replaced by those of a trained one (config.init, for fine-tuning).

    Args:
      path: work directory or PyTorch file. described: {"name", "num_classes", "arguments"} of the fresh network.
      params, batch_stats: its flat dicts. new_head: keep the fresh classifier where the trained one knows another number of classes.
    Returns:
      (params, batch_stats).
    Raises:
      UserError: another network than `described`; another number of classes without new_head.
    """
    model, metadata = load(path)
    (cls, ours), (other, theirs) = _complete(described), _complete(metadata["model"])
    if cls is not other:
        raise UserError(f"config.init {path} holds {metadata['model']['name']}, another network than config.model names")
    quantizes = theirs.get("gate_bits") is None  # training with quantized layers may start from a network without them
    free = LOW_BITS if quantizes else ()
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

    def chosen(flat):
        return {key: found[key] if key in found and found[key].shape == value.shape else value for key, value in flat.items()}

    return chosen(params), chosen(batch_stats)
