"""The command `predict`: photos in, the five most probable classes out."""

import logging
import sys

import jax
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bnext_jax.data import preprocessing
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.datasets import imagenet
from bnext_jax.distill import roster
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress
from bnext_jax.io.load import load
from bnext_jax.nn.network import split
from bnext_jax.nn.normalise import normalise

log = logging.getLogger(__name__)
TOP = 5
BATCH = 16


def read_photo(path, transform, shape):
    """One photo as the network was shown its images: the evaluation transform, then resized and cropped where that is not enough.

    Args:
      path: an image file that Pillow reads. transform: data.augment.transforms.Transform. shape: (height, width, 3) of the network.
    Returns:
      uint8 array of `shape`.
    Raises:
      UserError: no file, no image, or pixels that have no known range.
    """
    image = transform(np.asarray(open_photo(path)), None)
    if image.shape != tuple(shape):  # networks for small images have no resize in their transform
        height, width = shape[:2]
        image = np.asarray(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.BICUBIC))
    return image


def open_photo(path):
    """A photo as Pillow's RGB image, upright. Raises UserError: no file, no image, or pixels that have no known range."""
    try:
        with Image.open(path) as photo:  # cameras note in EXIF how they were held
            return _eight_bits(path, ImageOps.exif_transpose(photo)).convert("RGB")
    except UserError:  # a ValueError too, and it has said what is wrong
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no image that can be read: {error}") from error
    except OSError as error:  # also what Pillow says of a truncated image
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _eight_bits(path, photo):
    """A photo as Pillow converts it rightly: 16 bits of grey lose their lower half, where Pillow would clip them."""
    if photo.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.mode in ("I", "F"):
        raise UserError(f"{path} has pixels of {photo.mode}, 32 bits each, whose range nothing tells; save it with 8 bits a channel")
    return photo


def predict(files, checkpoint=None, model=None):
    """Classifies photos.

    Args:
      files: image files. checkpoint: a work directory or a PyTorch file. model: without a checkpoint, the network whose
        weights an installed package carries (roster.PACKAGED); with one, a check of its name.
    Returns:
      {"model", "epoch", "temperature", "images": [{"file", "top5": [{"class", "name", "probability"}, ...]}]}.
    Raises:
      UserError: no photo, one that cannot be read, neither checkpoint nor model, or what load says.
    """
    if not files:
        raise UserError("predict needs one image or more: predict --checkpoint=PATH IMAGE [IMAGE ...]")
    if not checkpoint and not model:
        raise UserError("predict needs --checkpoint=PATH, or --model=NAME for weights that a package carries")
    network, metadata = load(checkpoint or roster.packaged(model), model)
    seen = preprocessing.of(metadata)
    transform, shape = Transform(seen["eval_transform"]), tuple(seen["image_shape"])
    images = np.stack([read_photo(path, transform, shape) for path in files])
    names = imagenet.readable(metadata["class_names"], metadata["model"]["num_classes"])
    structure, params, batch_stats = split(network, training=False)

    @jax.jit
    def probabilities(variables, images):
        with jax.default_matmul_precision("highest"):
            pixels = normalise(images, tuple(seen["mean"]), tuple(seen["std"]), np.dtype("float32"))
            return jax.nn.softmax(structure(variables, pixels)[0])

    size, found = min(BATCH, len(images)), []
    with Progress("predict", -(-len(images) // size), 0) as progress:
        for start in range(0, len(images), size):
            batch = np.resize(images[start : start + size], (size, *shape))  # repeats images where the last batch is short
            found.extend(np.asarray(probabilities({**params, **batch_stats}, batch))[: len(images) - start])
            progress.step()
    rows = [_best(path, row, names) for path, row in zip(files, found, strict=True)]
    print(table(rows), file=sys.stderr)
    return {"model": metadata["model"]["name"], "epoch": metadata["epoch"], "temperature": metadata["temperature"], "images": rows}


def _best(path, row, names):
    order = np.argsort(-row, kind="stable")[:TOP]
    return {"file": str(path), "top5": [{"class": int(i), "name": names[i], "probability": float(row[i])} for i in order]}


def table(rows):
    """The predictions as text, one line a class. rows: the "images" of predict's result."""
    lines = []
    for row in rows:
        lines.append(row["file"])
        lines += [f"  {100 * best['probability']:5.1f} %  {best['class']:4d}  {best['name']}" for best in row["top5"]]
    return "\n".join(lines)
