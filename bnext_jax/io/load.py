"""A trained network from wherever it is: a work directory of ours, or a PyTorch file, taken as it is."""

import dataclasses
import logging

import jax
import numpy as np
from etils import epath
from flax import nnx

from bnext_jax.data import preprocessing
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io import checkpoint
from bnext_jax.io.torch import torch_files
from bnext_jax.io.torch.recognise import recognise, timm_names
from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.base import BITS
from bnext_jax.models.efficientnet import SCALES
from bnext_jax.models.table import abstract_model, create_model, model_config
from bnext_jax.nn.kbit import Clip
from bnext_jax.nn.network import fill, flatten, split

log = logging.getLogger(__name__)


def _recognised(path, expected):
    """(TorchFile with timm's names, (name, classes, arguments)) of a PyTorch file, checked against an expected name."""
    file = torch_files.read(path)
    file = dataclasses.replace(file, tensors=timm_names(file.tensors))
    if file.described is not None:
        found = tuple(file.described[key] for key in ("name", "num_classes", "arguments"))
    else:
        try:
            found = recognise(file.tensors)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    if expected not in (None, found[0]):
        raise UserError(f"{path} holds {found[0]} ({found[1]} classes), not {expected}; use --model={found[0]}, or leave --model out")
    return file, found


def _doubts(path, file, name, arguments):
    """Warns of what neither names nor shapes tell, where the file does not describe its network."""
    if file.described is not None:
        return
    if "gate_bits" in arguments:
        log.warning("%s does not say whether its gates have 4 or 8 bits; taken: %d (see convert --gate_bits)", path, arguments["gate_bits"])
    if name in SCALES and not roster.published(name, path):
        log.warning(
            "timm's EfficientNets with and without tf_ in their tag have the same names and shapes, but pad differently;"
            " %s is none of the roster's files by its checksum; taken: %s", path, name,
        )  # fmt: skip


def edition_arguments(name, arguments, gate_bits):
    """The arguments of a network's quantized edition: gates at gate_bits, stem and classifier at 8.

    Raises UserError for bits other than 4 and 8, a network that has no quantized edition, or one that is quantized otherwise.
    """
    if gate_bits not in BITS:
        raise UserError(f"--gate_bits is {gate_bits!r}; the quantized edition has gates of 4 or 8 bits")
    config = model_config(name, **arguments)
    edition = config.edition(gate_bits)
    if edition is None:
        raise UserError(f"{name} has no quantized edition; BNext-T, S, M and L have one: leave --gate_bits out")
    now, then = dataclasses.asdict(config), dataclasses.asdict(edition)
    changed = {key: value for key, value in then.items() if value != now[key]}
    differing = [f"{key} {now[key]}" for key in changed if now[key] is not None]
    if differing:
        raise UserError(f"{name} has {', '.join(differing)} already; leave --gate_bits out")
    return {**arguments, **changed}


def quantized(model, metadata, gate_bits):
    """(model, metadata) of the quantized edition of a trained network, without training it again. Arguments: see load."""
    described = metadata["model"]
    name, classes, before = described["name"], described["num_classes"], described["arguments"]
    arguments = edition_arguments(name, before, gate_bits)
    if arguments == before:
        return model, metadata

    @jax.jit  # so that the weights, which nobody reads, are not drawn
    def limits():
        return flatten(nnx.state(create_model(name, classes, rngs=nnx.Rngs(0), **arguments), Clip))

    _, params, rest = split(model, training=False)
    filled = fill(abstract_model(name, classes, **arguments), params, {**limits(), **rest})
    return filled, {**metadata, "model": {**described, "arguments": arguments}}


def from_file(path, expected=None, gate_bits=None):
    """The network in a PyTorch file.

    Args:
      path: see torch_files.read. expected: the model's name, checked where it is given. gate_bits: 4 or 8, of the
        quantized edition, whose published files do not say it; None = 4, with a warning. Other networks stay as they are; see load.
    Returns:
      (model, metadata) as checkpoint.load_network's: the epoch and temperature are the file's; class names are unknown,
      and the preprocessing is None except for ImageNet's 1,000 classes.
    Raises:
      UserError: a file that cannot be read, no network that is known, another than expected, tensors that do not fit or
        are not finite.
    """
    file, (name, classes, arguments) = _recognised(path, expected)
    if gate_bits is None:
        _doubts(path, file, name, arguments)
    elif "gate_bits" in arguments and file.described is None and gate_bits in BITS:
        arguments = {**arguments, "gate_bits": gate_bits}
    broken = [key for key, array in file.tensors.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{path} has numbers that are not finite in {', '.join(broken)}; its training diverged, or it is damaged")
    try:
        model = abstract_model(name, classes, **arguments)
        from_state_dict(model, file.tensors)
    except UserError as error:
        raise UserError(f"{path} is nearly {name} with {classes} classes: {error}") from error
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:  # what a strange description makes of a network
        raise UserError(f"{path} describes a network that cannot be: {name} with {arguments} ({error})") from error
    own = getattr(model, "temperature", None)
    temperature = 1.0 if own is None else float(own[...])
    if own is not None and file.temperature is not None and not np.isclose(file.temperature, temperature, rtol=1e-4, atol=0):
        log.warning("%s says temperature %s, its tensors say %s: the tensors count", path, file.temperature, temperature)
    metadata = {
        "model": {"name": name, "num_classes": classes, "arguments": arguments},
        "step": 0,
        "epoch": file.epoch or 0,
        "temperature": temperature,
        "preprocessing": preprocessing.published(name, classes),
        "class_names": [],
        "precision": "float32",
        "config": None,
        "source": epath.Path(path).name,
    }
    return model, metadata


def load(path, expected=None, gate_bits=None):
    """(model, metadata) of a work directory or a PyTorch file; arguments and errors as from_file's and checkpoint.load_network's.

    gate_bits: 4 or 8, as the quantized edition, which networks that are not quantized become; see edition_arguments.
    """
    if not epath.Path(path).is_dir():
        if not epath.Path(path).exists():
            raise UserError(f"{path} does not exist; give a work directory that `train` or `convert` wrote, or a PyTorch file")
        model, metadata = from_file(path, expected, gate_bits)
    else:
        model, metadata = checkpoint.load_network(path)
    name = metadata["model"]["name"]
    if expected not in (None, name):
        raise UserError(f"{path} holds {name}, not {expected}; use --model={name}, or leave --model out")
    return (model, metadata) if gate_bits is None else quantized(model, metadata, gate_bits)


def describe(path, gate_bits=None):
    """The metadata of a work directory or a PyTorch file. gate_bits: see load."""
    if not epath.Path(path).is_dir():
        return load(path, gate_bits=gate_bits)[1]
    metadata = checkpoint.describe(path)
    if gate_bits is None:
        return metadata
    described = metadata["model"]
    arguments = edition_arguments(described["name"], described["arguments"], gate_bits)
    return {**metadata, "model": {**described, "arguments": arguments}}


def fits_classes(metadata, class_names):
    """Whether a network has these classes: by name where its own are known, else by their number."""
    known = metadata["class_names"]
    return known == list(class_names) if known else metadata["model"]["num_classes"] == len(class_names)
