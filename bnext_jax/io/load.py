"""A trained network from wherever it is: a work directory of ours, or a PyTorch file, taken as it is."""

import dataclasses
import inspect
import json
import logging

import jax
import numpy as np
from etils import epath
from flax import nnx

from bnext_jax.data.datasets.imagenet import CLASSES
from bnext_jax.distill import roster as teachers
from bnext_jax.errors import UserError
from bnext_jax.io import checkpoint
from bnext_jax.io import torch as convert
from bnext_jax.io.torch import files as torch_files
from bnext_jax.models import MODELS, BNext, abstract_model, create_model
from bnext_jax.models.bnext import default_stride
from bnext_jax.models.efficientnet import SCALES
from bnext_jax.nn import network as state
from bnext_jax.nn.kbit import Clip

log = logging.getLogger(__name__)
SIZE, RESIZED = 224, 235  # BNext's evaluation on ImageNet: SPEC section 3
EDITION = ("stem_bits", "classifier_bits")  # at 8 bit in the quantised edition, whatever its gates have


def preprocessing(name, num_classes):
    """What a network published for ImageNet expects, as a checkpoint's metadata says it; None with other than 1,000 classes."""
    if num_classes != CLASSES:
        return None
    teacher = teachers.of_model(name)
    size = SIZE if teacher is None else teacher.size
    line = f"resize({RESIZED})|center_crop({SIZE})" if teacher is None else teacher.eval_transform()
    mean, std = (teachers.IMAGENET_MEAN, teachers.IMAGENET_STD) if teacher is None else (teacher.mean, teacher.std)
    return {"mean": list(mean), "std": list(std), "eval_transform": line, "image_shape": [size, size, 3]}


def _recognised(path, expected):
    """(TorchFile with timm's names, (name, classes, arguments)) of a PyTorch file, checked against an expected name."""
    file = torch_files.read(path)
    file = dataclasses.replace(file, tensors=convert.timm_names(file.tensors))
    if file.described is not None:
        found = tuple(file.described[key] for key in ("name", "num_classes", "arguments"))
    else:
        try:
            found = convert.recognise(file.tensors)
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
    if name in SCALES and not teachers.published(name, path):
        log.warning(
            "timm's EfficientNets with and without tf_ in their tag have the same names and shapes, but pad differently;"
            " %s is none of the roster's files by its checksum; taken: %s", path, name,
        )  # fmt: skip


def edition_arguments(name, arguments, gate_bits):
    """The arguments of a network's quantised edition: gates at gate_bits (4 or 8, also as text), stem and classifier at 8.

    Raises UserError for other bits, a network that has no quantised edition, or one that is quantised otherwise.
    """
    if str(gate_bits) not in ("4", "8"):
        raise UserError(f"--gate_bits is {gate_bits!r}; the quantised edition has gates of 4 or 8 bits")
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}; one of: {', '.join(MODELS)}")
    if MODELS[name][0] is not BNext:
        raise UserError(f"{name} has no quantised edition; BNext-T, S, M and L have one: leave --gate_bits out")
    bits = {"gate_bits": int(gate_bits), **dict.fromkeys(EDITION, 8)}
    differing = {key: arguments[key] for key in bits if arguments.get(key) not in (None, bits[key])}
    if differing:
        raise UserError(f"{name} has {', '.join(f'{key} {value}' for key, value in differing.items())} already; leave --gate_bits out")
    return {**arguments, **bits}


def quantised(model, metadata, gate_bits):
    """(model, metadata) of the quantised edition of a trained network, without training it again. Arguments: see load."""
    described = metadata["model"]
    name, classes, before = described["name"], described["num_classes"], described["arguments"]
    arguments = edition_arguments(name, before, gate_bits)
    if arguments == before:
        return model, metadata

    @jax.jit  # so that the weights, which nobody reads, are not drawn
    def limits():
        return state.flatten(nnx.state(create_model(name, classes, rngs=nnx.Rngs(0), **arguments), Clip))

    _, params, rest = state.split(model, training=False)
    filled = state.fill(abstract_model(name, classes, **arguments), params, {**limits(), **rest})
    return filled, {**metadata, "model": {**described, "arguments": arguments}}


def from_file(path, expected=None, gate_bits=None):
    """The network in a PyTorch file.

    Args:
      path: see convert.torch_files.read. expected: the model's name, checked where it is given. gate_bits: 4 or 8, of the
        quantised edition, whose published files do not say it; None = 4, with a warning. Other networks stay as they are; see load.
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
    elif "gate_bits" in arguments and file.described is None:
        arguments = {**arguments, "gate_bits": edition_arguments(name, {}, gate_bits)["gate_bits"]}
    broken = [key for key, array in file.tensors.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{path} has numbers that are not finite in {', '.join(broken)}; its training diverged, or it is damaged")
    try:
        model = abstract_model(name, classes, **arguments)
        convert.from_state_dict(model, file.tensors)
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
        "preprocessing": preprocessing(name, classes),
        "class_names": [],
        "precision": "float32",
        "config": None,
        "source": epath.Path(path).name,
    }
    return model, metadata


def load(path, expected=None, gate_bits=None):
    """(model, metadata) of a work directory or a PyTorch file; arguments and errors as from_file's and checkpoint.load_network's.

    gate_bits: 4 or 8, as the quantised edition, which networks that are not quantised become; see edition_arguments.
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
    return (model, metadata) if gate_bits is None else quantised(model, metadata, gate_bits)


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


def _resolved(described):
    """All arguments that a network was made with, the defaults of its class included, as JSON data."""
    cls, fixed = MODELS[described["name"]]
    optional = {key: value.default for key, value in inspect.signature(cls.__init__).parameters.items() if value.default is not value.empty}
    arguments = {**optional, **fixed, **described["arguments"]}
    arguments.pop("num_classes", None)
    if "stem_stride" in arguments:
        arguments["stem_stride"] = arguments["stem_stride"] or default_stride(described["num_classes"])
    return cls, json.loads(json.dumps(arguments))


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
    (cls, ours), (other, theirs) = _resolved(described), _resolved(metadata["model"])
    if cls is not other:
        raise UserError(f"config.init {path} holds {metadata['model']['name']}, another network than config.model names")
    quantises = theirs.get("gate_bits") is None  # training with quantised layers may start from a network without them
    free = ("gate_bits", *EDITION) if quantises else ()
    differing = [f"{key} {theirs[key]} (config.model: {ours[key]})" for key in theirs if theirs[key] != ours[key] and key not in free]
    if differing:
        raise UserError(f"config.init {path} holds a network with {', '.join(differing)}; they must be the same")
    classes, known = described["num_classes"], metadata["model"]["num_classes"]
    if known != classes and not new_head:
        raise UserError(
            f"config.init {path} knows {known} classes, the dataset has {classes}; --config.init_new_head=True starts with a fresh"
            " classifier"
        )
    _, trained, statistics = state.split(model, training=False)
    found = {**trained, **statistics}

    def chosen(flat):
        return {key: found[key] if key in found and found[key].shape == value.shape else value for key, value in flat.items()}

    return chosen(params), chosen(batch_stats)
