"""The command `pack`: writes a trained binary network as a packed file, one bit a weight, and checks it."""

import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.analysis.count import weigh
from bnext_jax.errors import UserError
from bnext_jax.io.files import checked_ending, write_whole
from bnext_jax.io.load import load
from bnext_jax.models.base import TableModel
from bnext_jax.nn.binary_conv import LatentWeight
from bnext_jax.packed import file, network
from bnext_jax.packed.pack import pack as packed

log = logging.getLogger(__name__)
IMAGES = 8  # images of the check
SMALLEST = 32  # pixels, the least side of the check's images
CLOSE = 1e-3  # largest difference of two logits that counts as rounding, in standard deviations of the logits


def pack(checkpoint: str, output: str, gate_bits: int | None = None, weights: str | None = None) -> dict[str, Any]:
    """Packs a network, checks the file, and prints its sizes on standard error.

    Args:
      checkpoint: a work directory or a PyTorch file. All its binary weights must be exactly +1 or -1 (or 0, which becomes +1).
      output: the file to write, NAME.bnext; it must not exist.
      gate_bits: 4 or 8 = pack the quantized edition, see io.load.load.
      weights: which weights to take if a PyTorch file holds several, see io.load.load.
    Returns:
      {"model", "output", "bytes": size of the file, "bits": bytes of the binary weights, "rest": bytes of all other numbers,
      "header": bytes of names, description and program, "counted": bytes by `count`, "zero_weights", "check": see checked}.
    Raises:
      UserError: the network cannot be read or has no exactly binary weights, the output exists or cannot be written, or the packed network
        computes something else than the float network.
    """
    path = checked_ending(output, "packed network", (file.SUFFIX,))
    if path.exists():
        raise UserError(f"{output} exists; remove it or name another --output")
    model, metadata = load(checkpoint, gate_bits=gate_bits, form=network.FLOAT, weights=weights)
    if file.is_packed(checkpoint):
        raise UserError(f"{checkpoint} is packed already")
    tensors, description = packed(model, {**metadata, "source": str(checkpoint)})
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / path.name
        file.write(made, tensors, description)
        log.info("checking the packed network on %d images", IMAGES)
        check = checked(_without_zeros(model) if description["zero_weights"] else model, made)
        size = made.stat().st_size
        write_whole(path, made.read_bytes(), "packed network")
    bits = sum(array.nbytes for name, array in tensors.items() if array.dtype == np.uint32 and name != file.PROGRAM)
    program = tensors[file.PROGRAM].nbytes if file.PROGRAM in tensors else 0
    header = size - sum(array.nbytes for array in tensors.values()) + program
    found = {
        "model": metadata["model"]["name"], "output": str(output), "bytes": size, "bits": bits, "rest": size - header - bits,
        "header": header, "counted": weigh(model)["bytes"], "zero_weights": description["zero_weights"], "check": check,
    }  # fmt: skip
    print(table(found), file=sys.stderr)
    return found


def _without_zeros(model: TableModel) -> TableModel:
    """A copy of a network in which each latent weight that is 0 is positive, as in the packed file."""
    copy = nnx.clone(model)
    for _, variable in nnx.to_flat_state(nnx.state(copy, LatentWeight)):
        variable.set_value(jnp.where(variable.get_value() == 0, 1, variable.get_value()))
    return copy


def checked(model: TableModel, path: os.PathLike | str) -> dict[str, Any]:
    """Compares a packed network with the float network on random images.

    A sign flips where rounding moves a number across 0, in any two programs, and then the logits of this image differ. So one image may
    differ; but half of the images must agree.

    Args:
      model: the float network, without latent weights that are 0.
      path: the packed file.
    Returns:
      {"form": "engine" or "xla", "images", "pixels": side of an image, "difference": the median over images of the largest difference
      of a logit, in standard deviations of the logits, "same_top1": number of images with the same first class}.
    Raises:
      UserError: the networks compute different logits.
    """
    loaded, _ = network.load(path)
    side = -(-SMALLEST // model.total_stride) * model.total_stride
    images = np.random.default_rng(0).standard_normal((IMAGES, side, side, 3), np.float32)
    with jax.default_matmul_precision("highest"):
        expected, found = (np.asarray(jax.jit(lambda x, one=one: one(x))(images)) for one in (model, loaded))
    worst = np.abs(found - expected).max(1) / expected.std()
    same = int((found.argmax(1) == expected.argmax(1)).sum())
    difference = float(np.median(worst))
    if not difference <= CLOSE:
        raise UserError(
            f"the packed network does not compute what the float network does (logits differ by {difference:.2g} of their deviation);"
            " nothing was written. A network that was not trained may have inputs that are exactly 0, which count as +1 in a packed"
            " network; if this one was trained, please report this"
        )
    form = "engine" if isinstance(loaded, network.PackedNetwork) else "xla"
    return {"form": form, "images": IMAGES, "pixels": side, "difference": difference, "same_top1": same}


def table(found: Mapping[str, Any]) -> str:
    """Formats the result of `pack` as text."""
    check = found["check"]
    rows = [("binary weights", found["bits"]), ("all other numbers", found["rest"]), ("header and program", found["header"])]
    lines = [f"{found['output']}: {found['model']}"]
    lines += [f"  {name:20}{size:>14,} bytes" for name, size in [*rows, ("together", found["bytes"])]]
    lines.append(f"  {'by count':20}{found['counted']:>14,} bytes ({100 * (found['bytes'] / found['counted'] - 1):+.2f} %)")
    if found["zero_weights"]:
        lines.append(f"  {found['zero_weights']} latent weights are exactly 0, which one bit cannot hold: they count as +1")
    lines.append(
        f"  check ({check['form']}): the logits of {check['images']} random images differ by {check['difference']:.1e} of their"
        f" deviation (median), {check['same_top1']} of {check['images']} have the same first class"
    )
    return "\n".join(lines)
