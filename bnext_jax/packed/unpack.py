"""Builds networks from packed files: with packed convolutions (`restored`), or as a plain float network (`simulated`)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError, one_line
from bnext_jax.models.base import TableModel
from bnext_jax.models.table import abstract_model
from bnext_jax.nn import lowering
from bnext_jax.nn.kbit import KernelQuantizer
from bnext_jax.nn.network import flatten, unflatten
from bnext_jax.nn.variables import Switch, Temperature, TrainingStatistic
from bnext_jax.packed.file import PROGRAM
from bnext_jax.packed.layout import BINARY, CODES, NORM, Slot, slots, spread, unpacked_bits, unpacked_codes
from bnext_jax.packed.xla import PackedConv


class OneByOne(TableModel):
    """A network that computes image by image on a CPU, where the maps of one image stay in the cache. Elsewhere it computes the batch."""

    def __init__(self, network: TableModel) -> None:
        self.network = network
        self.config = network.config

    @property
    def total_stride(self) -> int:
        """See TableModel."""
        return self.network.total_stride

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, see TableModel."""
        return lowering.choose(lambda images: lax.map(lambda image: self.network(image[None])[0], images), self.network, images)


def described_model(description: Mapping[str, Any]) -> TableModel:
    """The network that a description names, with shapes in place of arrays, as an evaluation view.

    Args:
      description: of a packed file, see packed.file.read.
    Raises:
      UserError: there is no such network.
    """
    told, source = description["model"], description.get("source", "the packed network")
    try:
        return abstract_model(told["name"], told["num_classes"], **told["arguments"])
    except UserError as error:
        raise UserError(f"{source} describes no network of this bnext_jax: {error}") from error
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        made = f"{told['name']} with {told['arguments']}"
        raise UserError(f"{source} describes an impossible network: {one_line(made)} ({one_line(error)})") from error


def check(model: TableModel, tensors: Mapping[str, np.ndarray], source: str) -> list[Slot]:
    """Compares the tensors of a file with those that a network needs.

    Args:
      model: the network, abstract or not.
      tensors: {name: array} of the file.
      source: the file, for messages.
    Returns:
      The slots of the network.
    Raises:
      UserError: a tensor is missing, superfluous, of another type or shape, or has a number that is not finite.
    """
    found = slots(model)
    needed = {name: layout for slot in found for name, layout in slot.tensors.items()}
    advice = "it is damaged, or another program wrote it"
    missing, others = sorted(needed.keys() - tensors.keys()), sorted(tensors.keys() - needed.keys() - {PROGRAM})
    for names, what in ((missing, "lacks"), (others, "has tensors that its network does not have:")):
        if names:
            raise UserError(f"{source} {what} {one_line(', '.join(names[:3]))}{' and more' if len(names) > 3 else ''}; {advice}")
    for name, (kind, shape) in needed.items():
        array = tensors[name]
        if array.dtype != kind or array.shape != shape:
            theirs, ours = (f"{np.dtype(one)} {list(sides)}" for one, sides in ((array.dtype, array.shape), (kind, shape)))
            raise UserError(f"{source} has {name} as {theirs}, and its network needs {ours}; {advice}")
        if kind == np.float32 and not np.isfinite(array).all():
            raise UserError(f"{source} has numbers in {name} that are not finite; {advice}")
    return found


def _values(slot: Slot, arrays: list[np.ndarray]) -> dict[str, Any]:
    """The variables of a slot that is not binary, from its arrays: {path: array}."""
    if slot.kind == CODES:
        quantizer: KernelQuantizer = slot.module.quantizer  # type: ignore[attr-defined]  # slots found it
        shape = tuple(slot.variable.shape)
        low, step = (spread(np.asarray(ranges, np.float64), quantizer, len(shape)) for ranges in arrays[1:])
        return {slot.name: jnp.asarray(unpacked_codes(arrays[0], quantizer.bits, shape) * step + low, jnp.float32)}
    if slot.kind == NORM:
        norm: Any = slot.module
        # With this mean and this variance the factor of the norm is its scale, and the offset its bias.
        still = {"mean": np.zeros_like(arrays[0]), "var": np.full_like(arrays[0], np.float32(1) - np.float32(norm.epsilon))}
        own = {"scale": arrays[0], "bias": arrays[1], **still, "batches": np.zeros((), np.int32)}
        return {f"{slot.name}/{name}": jnp.asarray(value) for name, value in own.items()}
    return {slot.name: jnp.asarray(arrays[0])}


def _filled(model: TableModel, values: Mapping[str, Any]) -> TableModel:
    """A network with the given values, {path: array}. Temperatures and training's statistics are 0, switches are on, others are kept."""
    graphdef, state = nnx.split(model)
    off = flatten(nnx.state(model, nnx.filterlib.Any(Temperature, TrainingStatistic)))
    fixed = {path: jnp.zeros(value.shape, value.dtype) for path, value in off.items()}
    fixed |= {path: jnp.ones(value.shape, value.dtype) for path, value in flatten(nnx.state(model, Switch)).items()}
    return nnx.merge(graphdef, unflatten({**flatten(state), **fixed, **values}))


def restored(description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> TableModel:
    """Builds the network of a packed file, with PackedConv in place of each BinaryConv. It cannot be trained.

    Args:
      description: see packed.file.read.
      tensors: {name: array}, see packed.file.read.
    Returns:
      An evaluation view, a OneByOne.
    Raises:
      UserError: the description names no network, or the tensors are not those of the network.

    Example:
      model = restored(*file.read("tiny.bnext"))
      logits = model(images)  # [N, 224, 224, 3], normalized
    """
    model = described_model(description)
    found = check(model, tensors, description.get("source", "the packed network"))
    values: dict[str, Any] = {}
    layers = {}
    for slot in found:
        arrays = [tensors[name] for name in slot.tensors]
        if slot.kind == BINARY:
            layers[id(slot.module)] = PackedConv(slot.module, *arrays)  # type: ignore[arg-type]
        else:
            values |= _values(slot, arrays)
    for _, module in list(nnx.iter_modules(model)):
        for name, child in list(vars(module).items()):
            if id(child) in layers:
                setattr(module, name, layers[id(child)])
            elif isinstance(child, KernelQuantizer):
                child.keeps_kernel = True
    return OneByOne(_filled(model, values))


def simulated(description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> TableModel:
    """Builds the network of a packed file as a plain float network: its latent weights have one magnitude, its temperature is 0.

    It can be saved, exported to PyTorch, and trained further. See `restored` for the arguments and errors.
    """
    model = described_model(description)
    values: dict[str, Any] = {}
    for slot in check(model, tensors, description.get("source", "the packed network")):
        arrays = [tensors[name] for name in slot.tensors]
        if slot.kind == BINARY:
            signs = np.where(unpacked_bits(arrays[0], slot.variable.shape[-2]), np.float32(1), np.float32(-1))
            quantizer = slot.variable.get_metadata()["quantizer"]
            values[slot.name] = jnp.asarray(quantizer.latent(signs, arrays[1]) if len(arrays) > 1 else signs)
        else:
            values |= _values(slot, arrays)
    model = _filled(model, values)
    for slot in slots(model):
        if slot.kind == CODES:  # the network quantizes such a kernel again
            quantizer = slot.module.quantizer  # type: ignore[attr-defined]  # slots found it
            for name, value in quantizer.refitted(slot.variable.get_value()).items():
                getattr(quantizer, name).set_value(value)
    return model
