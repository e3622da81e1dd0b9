"""Packs a trained network: one bit a binary weight, batch norm as a factor and an offset, low-bit kernels as codes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.base import TableModel
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.variables import Temperature, real_until
from bnext_jax.packed.file import FORMAT, PROGRAM
from bnext_jax.packed.layout import BINARY, CODES, NORM, Slot, packed_bits, packed_codes, slots
from bnext_jax.packed.program import program

KEPT = ("model", "preprocessing", "class_names", "epoch", "step", "precision")  # entries of the metadata that a description keeps


def pack(model: TableModel, metadata: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Makes the tensors and the description of a packed file.

    Args:
      model: a network with exactly binary weights.
      metadata: its description, as io.load.load returns it.
    Returns:
      (tensors, description) for packed.file.write. The description has "format", "zero_weights" (the number of latent weights that are
      exactly 0; they count as +1), and the entries KEPT of the metadata. The tensors include a program if the engine in C knows the
      network.
    Raises:
      UserError: the network has no binary weights, its weights are not exactly binary at its temperature or at its step, or a value is
        not finite.
    """
    source = metadata.get("source", "the network")
    found = slots(model)
    _check(model, found, source)
    tensors: dict[str, np.ndarray] = {}
    zeros = 0
    view = nnx.view(model, use_running_average=True, raise_if_not_found=False)
    norms = {"/".join(map(str, path)): module for path, module in nnx.iter_modules(view) if isinstance(module, BatchNorm)}
    for slot in found:
        value = slot.variable.get_value()
        if slot.kind == BINARY:
            arrays = _binary(slot, value)
            zeros += int(value.size - np.count_nonzero(np.asarray(value)))
        elif slot.kind == NORM:
            arrays = _folded(norms[slot.name])
        elif slot.kind == CODES:
            quantizer = slot.module.quantizer  # type: ignore[attr-defined]  # slots found it
            codes, *ranges = quantizer.coded(value)
            arrays = [packed_codes(codes, quantizer.bits), *ranges]
        else:
            arrays = [value]
        for (name, (kind, shape)), array in zip(slot.tensors.items(), arrays, strict=True):
            tensors[name] = np.asarray(array, kind).reshape(shape)
    broken = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{source} has numbers that are not finite in {', '.join(broken[:3])}; its training diverged, or it is damaged")
    words = program(model, tensors, metadata.get("preprocessing"))
    if words is not None:
        tensors = {PROGRAM: words, **tensors}
    described = {"format": FORMAT, **{key: metadata[key] for key in KEPT}, "zero_weights": zeros}
    return tensors, described


def _check(model: nnx.Module, found: list[Slot], source: str) -> None:
    """Raises UserError unless the network has binary weights, all finite and exactly binary at its temperature and step."""
    quantizers = {slot.variable.get_metadata()["quantizer"] for slot in found if slot.kind == BINARY}
    if not quantizers and any(isinstance(module, BinaryConv) for _, module in nnx.iter_modules(model)):
        raise UserError(
            f"the weights of {source} are real: it is a stage of training before the binary one (binary_weights=False); train the network"
            f" without that argument and with --config.init={source}, then pack it"
        )
    if not quantizers:
        raise UserError(f"{source} has no binary weights; there is nothing to pack")
    when = real_until(model)
    if when is not None:
        raise UserError(
            f"the weights of {source} are not binary yet: its network binarizes them from {when} on (counted from 0); train it further,"
            " then pack it"
        )
    temperatures = [float(value) for value in jax.tree.leaves(nnx.state(model, Temperature))]
    temperature = max(temperatures, default=None)
    for quantizer in quantizers:
        if not quantizer.is_exact(temperature):
            limit = getattr(quantizer, "exact_below", None)
            below = "" if limit is None else f" (they are below {limit:g})"
            at = "" if temperature is None else f" at its temperature {temperature:g}{below}"
            raise UserError(f"the weights of {source} are not exactly binary{at}; train it to the end of its schedule, then pack it")
    broken = [slot.name for slot in found if not np.isfinite(np.asarray(slot.variable.get_value(), np.float32)).all()]
    if broken:
        raise UserError(f"{source} has numbers that are not finite in {', '.join(broken[:3])}; its training diverged, or it is damaged")


def _binary(slot: Slot, latent: jax.Array) -> list[Any]:
    """[bits], or [bits, scale] where the quantizer has a scale."""
    quantizer = slot.variable.get_metadata()["quantizer"]
    scale = quantizer.scale(latent)
    bits = packed_bits(np.asarray(quantizer.signs(latent) >= 0))
    return [bits] if scale is None else [bits, scale]


def _folded(norm: BatchNorm) -> list[Any]:
    """The factor and the offset of a batch norm with its running statistics: the same float32 numbers that the network computes."""
    nothing = jnp.zeros((1, norm.scale.shape[0]), jnp.float32)
    return list(norm.affine(nothing, nothing, 1))
