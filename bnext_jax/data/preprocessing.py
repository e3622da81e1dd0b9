"""How images are scaled before a network sees them: what a network says itself, else one fallback for every command.

Preprocessing is JSON data in a checkpoint's metadata: {"mean", "std" (of pixels in [0, 1], a channel each), "eval_transform" (one line of
data.augment.transforms), "image_shape" [height, width, 3]}.
"""

import logging

from bnext_jax.data.datasets.imagenet import CLASSES
from bnext_jax.distill import roster

log = logging.getLogger(__name__)
SIZE, RESIZED = 224, 235  # BNext's evaluation on ImageNet: SPEC section 3
CIFAR = {"mean": [0.507, 0.487, 0.441], "std": [0.267, 0.256, 0.276], "eval_transform": "", "image_shape": [32, 32, 3]}
CIFAR_CLASSES = (10, 100)


def published(name, num_classes):
    """The preprocessing of a network published for ImageNet; None with other than 1,000 classes. name: a model's."""
    if num_classes != CLASSES:
        return None
    teacher = roster.of_model(name)
    size = SIZE if teacher is None else teacher.size
    line = f"resize({RESIZED})|center_crop({SIZE})" if teacher is None else teacher.eval_transform()
    mean, std = (roster.IMAGENET_MEAN, roster.IMAGENET_STD) if teacher is None else (teacher.mean, teacher.std)
    return {"mean": list(mean), "std": list(std), "eval_transform": line, "image_shape": [size, size, 3]}


def of(metadata, data=None):
    """The preprocessing of a trained network.

    Args:
      metadata: of a checkpoint or a PyTorch file, see io.load.
      data: DataConfig that stands in where the network says nothing (its mean and std are the network's then), or None.
    Returns:
      The network's own preprocessing; where it says none, with `data` {"mean", "std", "eval_transform"} of it, else the published recipes'
      for its number of classes (SPEC section 3), with a warning.
    """
    known = metadata["preprocessing"]
    if known is not None:
        return known
    if data is not None:
        return {"mean": list(data.mean), "std": list(data.std), "eval_transform": data.eval_transform}
    classes = metadata["model"]["num_classes"]
    assumed = CIFAR if classes in CIFAR_CLASSES else published("bnext", CLASSES)
    log.warning(
        "%s does not say how its images were scaled; taken: %s pixels, mean %s, std %s",
        metadata.get("source", "the network"), assumed["image_shape"][0], assumed["mean"], assumed["std"],
    )  # fmt: skip
    return assumed
