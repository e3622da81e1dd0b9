"""Loads a trained network from a work directory, a file of PyTorch, Keras or Flax, or a packed file, without conversion beforehand."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from bnext_jax.data import preprocessing
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.io import buckets, checkpoint, foreign, sidecar, untold
from bnext_jax.io.names.meliusnet import without_copy
from bnext_jax.io.names.recognise import recognise, timm_names
from bnext_jax.io.paths import to_path
from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.base import BITS, TableModel
from bnext_jax.models.table import abstract_model, create_model, model_config
from bnext_jax.nn.binary_conv import LatentWeight
from bnext_jax.nn.kbit import Clip
from bnext_jax.nn.network import fill, flatten, split
from bnext_jax.packed import file as packed_file
from bnext_jax.packed import network

log = logging.getLogger(__name__)


def _recognised(path, expected, weights, hint):
    """Reads a file of another program, finds its network, and checks the network against the expected name (None = any).

    Where tensors of several networks have the same names, the file's checksum decides, else the expected name, else `hint`.

    Returns:
      (TorchFile with timm's tensor names, (model's name, number of classes, arguments)).
    """
    file = foreign.read(path, weights)
    try:
        tensors, told = without_copy(timm_names(file.tensors), path), file.described
        if told is None:
            teacher = roster.of_file(path)
            found = recognise(tensors, teacher.model if teacher else expected or hint)
        else:
            found = told["name"], told["num_classes"], told["arguments"]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    file = dataclasses.replace(file, tensors=tensors)
    if expected not in (None, found[0]):
        raise UserError(f"{path} holds {found[0]} ({found[1]} classes), not {expected}; use --model={found[0]}, or leave --model out")
    return file, found


def _preprocessed(path, file, metadata, given, binary):
    """The metadata of a PyTorch file with the preprocessing of the first that exists: the file's own description, a known checksum, a
    file beside it, the published recipe. For the weights of others it warns if the recipe is only assumed.

    Args:
      path: the file.
      file: its TorchFile.
      metadata: of the network, with the recipe's preprocessing, or None.
      given: what --preprocessing says, or None.
      binary: whether the network is binary. All published binary networks were trained with the recipe's mean and std.
    Returns:
      (metadata, the network's name by a file beside the weights, or None).
    """
    described = file.described or {}
    name, own = metadata["model"]["name"], described.get("preprocessing")
    if own is not None:
        if not packed_file.is_preprocessing(own) or "image_shape" not in own:
            raise UserError(f"{path} describes its preprocessing wrongly; write it again with `convert`, or use another file")
        return {**metadata, "preprocessing": own, "preprocessing_from": described.get("preprocessing_from", str(path))}, None
    teacher = roster.of_file(path)
    if teacher is not None and teacher.model == name:
        return {**metadata, "preprocessing": preprocessing.of_teacher(teacher), "preprocessing_from": preprocessing.CHECKSUM}, None
    beside = None if given is not None and given.complete else sidecar.beside(path)
    if beside is not None:
        sidecar.check(beside, path, metadata["model"])
        return preprocessing.changed(metadata, beside), beside.architecture
    recipe = metadata["preprocessing"]
    if recipe is None:
        return metadata, None
    known = len(roster.of_model(name)) < 2 and roster.published(name, path)
    if not known and not binary and given is None:
        log.warning(
            "%s does not say how its images were scaled; assuming %s, mean %s, std %s (see --preprocessing)",
            path, recipe["eval_transform"], recipe["mean"], recipe["std"],
        )  # fmt: skip
    return {**metadata, "preprocessing_from": preprocessing.CHECKSUM if known else preprocessing.ASSUMED}, None


def edition_arguments(name: str, arguments: Mapping[str, Any], gate_bits: int) -> dict[str, Any]:
    """The arguments of a network's quantized edition: gates at `gate_bits`, stem and classifier at 8 bits.

    Args:
      name: a key of models.table.MODELS.
      arguments: the network's arguments for create_model.
      gate_bits: 4 or 8.
    Raises:
      UserError: other bits, a network without a quantized edition, or a network that is already quantized with other bits.
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


def quantized(model: TableModel, metadata: dict[str, Any], gate_bits: int) -> tuple[TableModel, dict[str, Any]]:
    """Turns a trained network into its quantized edition, without further training.

    Args:
      model: the network.
      metadata: its description, as `load` returns it.
      gate_bits: 4 or 8.
    Returns:
      (the quantized network, its metadata); unchanged if the network already is that edition.
    Raises:
      UserError: see edition_arguments.
    """
    described = metadata["model"]
    name, classes, before = described["name"], described["num_classes"], described["arguments"]
    arguments = edition_arguments(name, before, gate_bits)
    if arguments == before:
        return model, metadata

    @jax.jit  # XLA then drops the random weights, which are not used
    def limits():
        return flatten(nnx.state(create_model(name, classes, rngs=nnx.Rngs(0), **arguments), Clip))

    _, params, rest = split(model, training=False)
    filled: Any = fill(abstract_model(name, classes, **arguments), params, {**limits(), **rest})
    return filled, {**metadata, "model": {**described, "arguments": arguments}}


def from_file(
    path: os.PathLike | str,
    expected: str | None = None,
    gate_bits: int | None = None,
    weights: str | None = None,
    given: preprocessing.Given | None = None,
    hint: str | None = None,
) -> tuple[TableModel, dict[str, Any]]:
    """Reads the network in a file of PyTorch, Keras or Flax.

    Args:
      path: the file, see foreign.read.
      expected: the model's name, as a check; None = any.
      gate_bits: 4 or 8, the bits of a quantized edition's gates. Published files do not name them; None = 4, with a warning. A network that
        is not quantized is not changed here; `load` quantizes it.
      weights: which weights to take if the file holds several, see foreign.read.
      given: what the user says of the preprocessing; `load` applies it. If it is complete, files beside the weights are not read.
      hint: the model's name where several networks share the names of the file's tensors and neither `expected` nor the file's checksum
        decides.
    Returns:
      (model, metadata) as from checkpoint.load_network. Epoch and temperature are the file's. The class names are unknown. The
      preprocessing is that of the file, of a JSON file beside it (see sidecar), or for ImageNet's 1,000 classes the published one; else
      None.
    Raises:
      UserError: the file cannot be read, its network is unknown or not the expected one, or its tensors do not fit or are not finite.
    """
    file, (name, classes, arguments) = _recognised(path, expected, weights, hint)
    if "gate_bits" in arguments and file.described is None and gate_bits in BITS:
        arguments = {**arguments, "gate_bits": gate_bits}
    broken = [key for key, array in file.tensors.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{path} has numbers that are not finite in {', '.join(broken)}; its training diverged, or it is damaged")
    try:
        model = abstract_model(name, classes, **arguments)
        from_state_dict(model, file.tensors)
    except UserError as error:
        raise UserError(f"{path} looks like {name} with {classes} classes, but: {error}") from error
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:  # the file's description makes no network
        raise UserError(f"{path} describes an impossible network: {name} with {arguments} ({error})") from error
    metadata = checkpoint.without_run(model, {"name": name, "num_classes": classes, "arguments": arguments})
    metadata, architecture = _preprocessed(path, file, metadata, given, bool(nnx.to_flat_state(nnx.state(model, LatentWeight))))
    untold.warn(path, file, name, classes, arguments, gate_bits, architecture)
    temperature = metadata["temperature"]
    if temperature is not None and file.temperature is not None and not np.isclose(file.temperature, temperature, rtol=1e-4, atol=0):
        log.warning("%s says temperature %s, its tensors say %s; using that of the tensors", path, file.temperature, temperature)
    return model, {**metadata, "epoch": file.epoch or 0, "source": os.path.basename(path)}


def load(
    path: os.PathLike | str,
    expected: str | None = None,
    gate_bits: int | None = None,
    form: str | None = None,
    threads: int = 0,
    weights: str | None = None,
    given: preprocessing.Given | None = None,
    hint: str | None = None,
) -> tuple[TableModel, dict[str, Any]]:
    """Loads a trained network from a work directory, a file of PyTorch, Keras or Flax, or a packed file.

    Args:
      path: a work directory that `train` or `convert` wrote, a file of another program (see foreign.read), or a packed
        file, NAME.bnext.
      expected: the model's name, as a check; None = any.
      gate_bits: 4 or 8 = load the quantized edition with gates of so many bits (a float network is quantized). None = as it was saved.
      form: how a packed file is computed, see packed.network.load; None = the fastest form that runs here. Other files ignore it.
      threads: threads that the engine of a packed file may use for one call; 0 = all processors. Other files ignore it.
      weights: of a PyTorch file that holds several: "ema", "raw" or the name of an entry; None = the only ones, or the averaged
        ones of two.
      given: what the user says of the preprocessing of images, see sidecar.parsed; it wins over all others. None = nothing.
      hint: see from_file. Other files ignore it.
    Returns:
      (the network as an evaluation view, its metadata: a dict with "model", "step", "epoch", "temperature" (None = the network takes
      none), "preprocessing", "preprocessing_from" (see data.preprocessing), "class_names", "precision" and more).
    Raises:
      UserError: there is nothing at `path`, it cannot be read, it holds another network than expected, or the network cannot be quantized
        like that (see edition_arguments).

    Example:
      model, metadata = load("bnext_tiny.pth.tar")
      logits = model(images)  # [N, 224, 224, 3], normalized
    """
    place = to_path(path)
    buckets.check(place, "the network")
    if not place.exists():
        raise UserError(
            f"{path} does not exist; give a work directory that `train` or `convert` wrote, a packed file, or one of PyTorch, Keras or Flax"
        )
    if weights is not None and (packed_file.is_packed(path) or place.is_dir()):
        raise UserError(f"{path} is not a PyTorch file: it holds one network only; leave --weights out")
    if packed_file.is_packed(path):
        model, metadata = network.load(path, form, threads)
        _check_edition(path, metadata, gate_bits)
        gate_bits = None
    elif place.is_dir():
        model, metadata = checkpoint.load_network(path)
    else:
        with buckets.local_copy(place, sidecar.names_beside(place.name)) as copy:
            model, metadata = from_file(copy, expected, gate_bits, weights, given, hint)
        if place.bucket and "preprocessing_from" in metadata:
            metadata["preprocessing_from"] = metadata["preprocessing_from"].replace(str(copy.parent), str(place.parent))
    name = metadata["model"]["name"]
    if expected not in (None, name):
        raise UserError(f"{path} holds {name}, not {expected}; use --model={name}, or leave --model out")
    if given is not None:
        sidecar.check(given, path, metadata["model"])
        metadata = preprocessing.changed(metadata, given)
    return (model, metadata) if gate_bits is None else quantized(model, metadata, gate_bits)


def _check_edition(path, metadata, gate_bits):
    """Raises UserError if a packed file is not the quantized edition with gates of gate_bits; None = any file is right."""
    if gate_bits not in (None, metadata["model"]["arguments"].get("gate_bits")):
        raise UserError(f"{path} is packed, and packed gates cannot be quantized; use `pack --gate_bits={gate_bits}` on its source")


def describe(path: os.PathLike | str, gate_bits: int | None = None, weights: str | None = None) -> dict[str, Any]:
    """The metadata of whatever `load` reads. Arguments and errors: see load."""
    if weights is not None:
        return load(path, gate_bits=gate_bits, weights=weights)[1]
    place = to_path(path)
    buckets.check(place, "the network")
    if packed_file.is_packed(path) and place.exists():
        with buckets.local_copy(place) as copy:
            metadata = network.metadata_of(packed_file.read_description(copy))
        _check_edition(path, metadata, gate_bits)
        return metadata
    if not place.is_dir():
        return load(path, gate_bits=gate_bits)[1]
    metadata = checkpoint.describe(path)
    if gate_bits is None:
        return metadata
    described = metadata["model"]
    arguments = edition_arguments(described["name"], described["arguments"], gate_bits)
    return {**metadata, "model": {**described, "arguments": arguments}}


def fits_classes(metadata: Mapping[str, Any], class_names: Sequence[str]) -> bool:
    """Whether a network has these classes. Compares the class names if the network has them, else only their number.

    Args:
      metadata: the network's, from `load`.
      class_names: the dataset's.
    """
    known = metadata["class_names"]
    return known == list(class_names) if known else metadata["model"]["num_classes"] == len(class_names)
