"""The preprocessing of images for a network: from the network's metadata, or a fallback that all commands share.

Preprocessing is JSON data in a checkpoint's metadata, a dict with these keys:

    mean, std        of pixels in [0, 1], one number per channel
    eval_transform   one line of data.augment.transforms
    image_shape      [height, width, 3]
    orientation      optional: "stored" = the network was trained on photos that were not turned as their EXIF data say; "upright" otherwise
"""

import logging
from collections.abc import Mapping
from typing import Any

from bnext_jax.config import DataConfig
from bnext_jax.data.datasets.imagenet import CLASSES
from bnext_jax.distill import roster

log = logging.getLogger(__name__)
SIZE, RESIZED = 224, 235  # pixels; BNext's evaluation on ImageNet: docs/spec.md, section 3
CIFAR: dict[str, Any] = {"mean": [0.507, 0.487, 0.441], "std": [0.267, 0.256, 0.276], "eval_transform": "", "image_shape": [32, 32, 3]}
CIFAR_CLASSES = (10, 100)


def published(name: str, num_classes: int) -> dict[str, Any] | None:
    """Returns the preprocessing that a network was published with for ImageNet.

    Args:
      name: the model's name, a key of bnext_jax.models.table.MODELS.
      num_classes: number of classes.
    Returns:
      the preprocessing; None if there are not 1,000 classes.
    """
    return _for_imagenet(name) if num_classes == CLASSES else None


def _for_imagenet(name: str) -> dict[str, Any]:
    teacher = roster.of_model(name)
    size = SIZE if teacher is None else teacher.size
    line = f"resize({RESIZED})|center_crop({SIZE})" if teacher is None else teacher.eval_transform()
    mean, std = (roster.IMAGENET_MEAN, roster.IMAGENET_STD) if teacher is None else (teacher.mean, teacher.std)
    return {"mean": list(mean), "std": list(std), "eval_transform": line, "image_shape": [size, size, 3]}


def upright(known: Mapping[str, Any] | None) -> bool:
    """Returns whether a network expects photos turned upright. known: its preprocessing, or None."""
    return (known or {}).get("orientation", "upright") == "upright"


def of(metadata: Mapping[str, Any], data: DataConfig | None = None) -> dict[str, Any]:
    """Returns the preprocessing of a trained network.

    Args:
      metadata: metadata of a checkpoint or a PyTorch file, see io.load.
      data: if the metadata has no preprocessing, the mean, std and eval_transform of `data` apply.
    Returns:
      the first that exists: the preprocessing in the metadata; {"mean", "std", "eval_transform"} of `data`; the published recipes'
      preprocessing for the number of classes (docs/spec.md, section 3), with a warning.
    """
    known = metadata["preprocessing"]
    if known is not None:
        return known
    if data is not None:
        return {"mean": list(data.mean), "std": list(data.std), "eval_transform": data.eval_transform}
    classes = metadata["model"]["num_classes"]
    assumed = CIFAR if classes in CIFAR_CLASSES else _for_imagenet("bnext")
    log.warning(
        "%s does not say how its images were scaled; assuming %s pixels, mean %s, std %s",
        metadata.get("source", "the network"), assumed["image_shape"][0], assumed["mean"], assumed["std"],
    )  # fmt: skip
    return assumed
