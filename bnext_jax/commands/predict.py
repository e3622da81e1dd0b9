"""The command `predict`: prints the five most probable classes of each photo."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.datasets import imagenet
from bnext_jax.data.decode.photo import use_photo
from bnext_jax.data.preprocessing import reported, upright
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress
from bnext_jax.io import sidecar
from bnext_jax.io.load import load
from bnext_jax.models.base import told_temperature
from bnext_jax.nn.network import split
from bnext_jax.nn.normalise import normalise

log = logging.getLogger(__name__)
TOP = 5
BATCH = 16


def read_photo(path: os.PathLike | str, transform: Transform, shape: tuple[int, ...], upright: bool = True) -> np.ndarray:
    """Reads a photo and applies the network's evaluation transform. Resizes and crops the result if it has not the network's size.

    Args:
      path: an image file.
      transform: the evaluation transform.
      shape: (height, width, 3) of the network's images, in pixels.
      upright: see preprocessing.upright.
    Returns:
      uint8 array of `shape`.
    Raises:
      UserError: see use_photo.
    """
    image = use_photo(path, lambda photo: transform(photo, None), upright=upright)
    if image.shape != tuple(shape):  # networks for small images have no resize in their transform
        height, width = shape[:2]
        image = np.asarray(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.BICUBIC))
    return image


def predict(
    files: Sequence[os.PathLike | str],
    checkpoint: os.PathLike | str | None = None,
    model: str | None = None,
    weights: str | None = None,
    preprocessing: str | None = None,
) -> dict[str, Any]:
    """Classifies photos, and prints the classes on standard error.

    Args:
      files: image files.
      checkpoint: a work directory or a PyTorch file, or None.
      model: without a checkpoint: the model whose weights come from an installed package (roster.PACKAGED). With a checkpoint: the
        expected name of its network.
      weights: which weights to take if a PyTorch file holds several, see io.load.load.
      preprocessing: how images were scaled for the weights, see io.sidecar.parsed.
    Returns:
      {"model", "epoch", "temperature" (if the network takes one), "preprocessing", "images":
       [{"file", "top5": [{"class", "name", "probability"}, ...]}]}.
    Raises:
      UserError: no photo, a photo that cannot be read, neither checkpoint nor model, or the network cannot be loaded.
    """
    if not files:
        raise UserError("predict needs one image or more: predict --checkpoint=PATH IMAGE [IMAGE ...]")
    if checkpoint is None:
        if model is None:
            raise UserError("predict needs --checkpoint=PATH, or --model=NAME for weights that a package carries")
        checkpoint = roster.packaged(model)
    network, metadata = load(checkpoint, model, weights=weights, given=None if preprocessing is None else sidecar.parsed(preprocessing))
    seen = reported(metadata)
    transform, shape = Transform(seen["eval_transform"]), tuple(seen["image_shape"])
    images = np.stack([read_photo(path, transform, shape, upright(seen)) for path in files])
    names = imagenet.readable(metadata["class_names"], metadata["model"]["num_classes"])
    structure, params, batch_stats = split(network, training=False)

    @jax.jit
    def probabilities(variables: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            pixels = normalise(images, tuple(seen["mean"]), tuple(seen["std"]), np.dtype("float32"))
            return jax.nn.softmax(structure(variables, pixels)[0])

    size = min(BATCH, len(images))
    found: list[np.ndarray] = []
    with Progress("predict", -(-len(images) // size), 0) as progress:
        for start in range(0, len(images), size):
            batch = np.resize(images[start : start + size], (size, *shape))  # fills a short last batch with repeated images
            found.extend(np.asarray(probabilities({**params, **batch_stats}, batch))[: len(images) - start])
            progress.step()
    rows = [_best(path, row, names) for path, row in zip(files, found, strict=True)]
    print(table(rows), file=sys.stderr)
    facts = {"model": metadata["model"]["name"], "epoch": metadata["epoch"], **told_temperature(metadata["temperature"])}
    return {**facts, "preprocessing": seen, "images": rows}


def _best(path: os.PathLike | str, row: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Returns one photo's entry of predict's result. `row` holds the probabilities of all classes, [C]."""
    order = np.argsort(-row, kind="stable")[:TOP]
    return {"file": str(path), "top5": [{"class": int(i), "name": names[i], "probability": float(row[i])} for i in order]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats predictions as text, one line per class.

    Args:
      rows: "images" of predict's result.
    """
    lines: list[str] = []
    for row in rows:
        lines.append(row["file"])
        lines += [f"  {100 * best['probability']:5.1f} %  {best['class']:4d}  {best['name']}" for best in row["top5"]]
    return "\n".join(lines)
