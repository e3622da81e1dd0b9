"""The preprocessing of images for a network: from the network's metadata, or a fallback that all commands share.

Preprocessing is JSON data in a checkpoint's metadata, a dict with these keys:

    mean, std        of pixels in [0, 1], one number per channel
    eval_transform   one line of data.augment.transforms
    image_shape      [height, width, 3]
    orientation      optional: "stored" = the network was trained on photos that were not turned as their EXIF data say; "upright" otherwise

The metadata's "preprocessing_from" says where it comes from: CHECKSUM, ASSUMED, a file, or the flag. Without it: the checkpoint itself.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping
from typing import Any

from bnext_jax.config import DataConfig
from bnext_jax.data.datasets.imagenet import CLASSES
from bnext_jax.distill import roster
from bnext_jax.errors import UserError

log = logging.getLogger(__name__)
SIZE = 224  # pixels
RESIZED, RESIZED_BEFORE = 235, 256  # pixels; evaluation on ImageNet: BNext (docs/spec.md, section 3), and the networks before it
BEFORE = (  # how their names begin
    "bnn", "xnornet", "birealnet", "meliusnet", "real_to_binary", "strong_baseline", "reactnet", "pokebnn", "resnet",
)  # fmt: skip
CIFAR: dict[str, Any] = {"mean": [0.507, 0.487, 0.441], "std": [0.267, 0.256, 0.276], "eval_transform": "", "image_shape": [32, 32, 3]}
CIFAR_CLASSES = (10, 100)
CHECKSUM, ASSUMED, CHECKPOINT, CONFIGURATION = "the checksum of the weights", "assumed", "the checkpoint", "the configuration"


@dataclasses.dataclass(frozen=True)
class Given:
    """What a user, or a file beside the weights, says of a preprocessing. None = nothing.

    Attributes:
      source: where it stands, for messages and results.
      mean: per channel, of pixels in [0, 1].
      std: per channel, of pixels in [0, 1].
      size: side of the network's images, in pixels.
      resized: shorter side of the resized image, from whose middle the network's image is cut, in pixels.
      crop: size / resized, in place of `resized`.
      architecture: timm's name of the network.
      num_classes: of the network.
    """

    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    resized: int | None = None
    crop: float | None = None
    architecture: str | None = None
    num_classes: int | None = None

    @property
    def transforms(self) -> bool:
        """Whether it says anything of the size or the crop."""
        return not (self.size is self.resized is self.crop is None)

    @property
    def complete(self) -> bool:
        """Whether it leaves nothing open."""
        return None not in (self.mean, self.std, self.size) and not (self.resized is self.crop is None)


def published(name: str, num_classes: int) -> dict[str, Any] | None:
    """Returns the preprocessing that a network was published with for ImageNet.

    Args:
      name: the model's name, a key of bnext_jax.models.table.MODELS. If several teachers have it, the result is what most papers use.
      num_classes: number of classes.
    Returns:
      the preprocessing; None if there are not 1,000 classes.
    """
    return _for_imagenet(name) if num_classes == CLASSES else None


def of_teacher(teacher: roster.Teacher) -> dict[str, Any]:
    """The preprocessing that a teacher was published with, for its own accuracy."""
    shape = [teacher.size, teacher.size, 3]
    return {"mean": list(teacher.mean), "std": list(teacher.std), "eval_transform": teacher.eval_transform(), "image_shape": shape}


def _for_imagenet(name: str) -> dict[str, Any]:
    teachers = roster.of_model(name)
    if len(teachers) == 1:
        return of_teacher(teachers[0])
    line = f"resize({RESIZED_BEFORE if name.startswith(BEFORE) else RESIZED})|center_crop({SIZE})"
    mean, std = roster.IMAGENET_MEAN, roster.IMAGENET_STD
    return {"mean": list(mean), "std": list(std), "eval_transform": line, "image_shape": [SIZE, SIZE, 3]}


def upright(known: Mapping[str, Any] | None) -> bool:
    """Returns whether a network expects photos turned upright. known: its preprocessing, or None."""
    return (known or {}).get("orientation", "upright") == "upright"


def _assumed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The published recipes' preprocessing for the number of classes (docs/spec.md, section 3)."""
    return CIFAR if metadata["model"]["num_classes"] in CIFAR_CLASSES else _for_imagenet("bnext")


def _configured(data: DataConfig) -> dict[str, Any]:
    return {"mean": list(data.mean), "std": list(data.std), "eval_transform": data.eval_transform}


def changed(metadata: Mapping[str, Any], given: Given, data: DataConfig | None = None) -> dict[str, Any]:
    """Returns the metadata of a network with the preprocessing that `given` says. What it leaves open stays as it was.

    Args:
      metadata: see `of`.
      given: what is said. A size alone keeps the crop's share of the resized image, and a crop alone keeps the size.
      data: see `of`.
    Raises:
      UserError: a crop is said, but no size is known.
    """
    base = metadata["preprocessing"] or (_assumed(metadata) if data is None else _configured(data))
    found = {**base, "mean": list(given.mean or base["mean"]), "std": list(given.std or base["std"])}
    if given.transforms:
        lines = re.fullmatch(r"resize\((\d+)\)\|center_crop\((\d+)\)", base["eval_transform"])
        before, cut = map(int, lines.groups()) if lines else (1, 1)
        size = given.size or (cut if lines else base.get("image_shape", [0])[0])
        if not size:
            raise UserError(f"{given.source} says a crop of images whose size is unknown; add input_size=N")
        resized = given.resized or (int(size / given.crop) if given.crop else size * before // cut)
        found |= {"eval_transform": f"resize({resized})|center_crop({size})", "image_shape": [size, size, 3]}
    source = given.source if given.complete else f"{given.source}; the rest: {origin(metadata, data)}"
    return {**metadata, "preprocessing": found, "preprocessing_from": source}


def origin(metadata: Mapping[str, Any], data: DataConfig | None = None) -> str:
    """Where the result of `of` comes from, in words. Arguments: see `of`."""
    if metadata["preprocessing"] is not None:
        return metadata.get("preprocessing_from", CHECKPOINT)
    return ASSUMED if data is None else CONFIGURATION


def reported(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing that predict uses, with "from": where it comes from. Arguments: see `of`."""
    return {**of(metadata), "from": origin(metadata)}


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
        return _configured(data)
    assumed = _assumed(metadata)
    log.warning(
        "%s does not say how its images were scaled; assuming %s pixels, mean %s, std %s",
        metadata.get("source", "the network"), assumed["image_shape"][0], assumed["mean"], assumed["std"],
    )  # fmt: skip
    return assumed
