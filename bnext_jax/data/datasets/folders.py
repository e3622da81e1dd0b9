"""Makes a TFDS dataset from a folder of class folders, the layout of PyTorch's ImageFolder.

The layout is DIR/train/CLASS/IMAGE, and DIR/val or DIR/test likewise. The dataset contains the unchanged bytes of the files.
The labels are the positions of train's class folders in sorted order, so ImageNet's synsets get their usual numbers.
"""

import logging
import os
import pathlib
import re

import tensorflow_datasets as tfds

from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress

log = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}  # folder -> split
NAMED = 5  # names listed in one message


def scan(source: os.PathLike | str) -> tuple[list[str], dict[str, list[tuple[pathlib.Path, str]]]]:
    """Lists the classes and the images in a folder of class folders.

    Args:
      source: the folder that has train, and val or test.
    Returns:
      (class names, {split: [(path relative to `source`, class name), ...]}), both sorted.
    Raises:
      UserError: `source` is no folder, has no train folder or no evaluation folder, or has both val and validation; an image lies
        outside a class folder; a split has a class that train does not have; or a split has no images.
    """
    root = pathlib.Path(source)
    if not root.is_dir():
        raise UserError(f"--source {source} is no folder")
    found = {}
    for name, split in SPLITS.items():
        if (root / name).is_dir():
            if split in found:
                raise UserError(f"{root} has both val and validation; keep one of them")
            found[split] = _files(root, name)
    if "train" not in found or len(found) < 2:
        raise UserError(f"{root} needs the folders train, and val or test, each with one folder a class; it has {_listed(root)}")
    classes = sorted({label for _, label in found["train"]})
    for split, files in found.items():
        strange = sorted({label for _, label in files} - set(classes))
        if strange:
            raise UserError(f"{split} in {root} has classes that train does not have: {', '.join(strange[:NAMED])}")
    return classes, found


def _listed(root: pathlib.Path) -> str:
    return ", ".join(sorted(entry.name for entry in os.scandir(root))[:NAMED]) or "nothing"


def _files(root: pathlib.Path, name: str) -> list[tuple[pathlib.Path, str]]:
    files, others = [], 0
    for entry in sorted(os.scandir(root / name), key=lambda entry: entry.name):
        if not entry.is_dir():
            if entry.name.lower().endswith(SUFFIXES):
                raise UserError(f"{entry.path} lies outside a class folder; sort the images of {name} into one folder a class")
            continue
        for path in sorted(pathlib.Path(entry.path).rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                files.append((path.relative_to(root), entry.name))
            elif path.is_file():
                others += 1
    if others:
        log.warning("%d files in %s do not have an image's suffix and are left out", others, root / name)
    if not files:
        raise UserError(f"{root / name} holds no images ({', '.join(SUFFIXES)}) in class folders")
    return files


def make_builder(name: str, directory: str, source: os.PathLike | str, file_format: str) -> tfds.core.GeneratorBasedBuilder:
    """Makes the TFDS builder that writes a folder of class folders as a dataset.

    Args:
      name: name of the dataset: lower-case letters, digits and "_", starting with a letter.
      directory: folder of all datasets.
      source: the folder of class folders, see scan.
      file_format: TFDS's name of the format, e.g. "array_record".
    Returns:
      the builder.
    Raises:
      UserError: the name has another form, or `source` has another layout (see scan).
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"config.data.name {name!r} cannot name a dataset; use lower-case letters, digits and _")
    classes, splits = scan(source)

    class Folders(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Images from class folders."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=classes),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label"))

        def _split_generators(self, dl_manager):
            del dl_manager  # nothing is downloaded
            return {split: self._generate_examples(split, files) for split, files in splits.items()}

        def _generate_examples(self, split, files):
            broken: list[str] = []
            with Progress(f"reading {split}", len(files), unit="image") as progress:
                for path, label in files:
                    full = pathlib.Path(source) / path
                    broken += _broken(full)
                    yield str(path), {"image": full, "label": label, "file_name": str(path)}
                    progress.step()
            if broken:
                log.warning(
                    "%d files of %s cannot be read as images: %s%s; training will replace them, evaluation will refuse the split",
                    len(broken), split, ", ".join(broken[:NAMED]), " ..." if len(broken) > NAMED else "",
                )  # fmt: skip

    Folders.name = name
    return Folders(data_dir=directory, file_format=file_format)


def _broken(path: pathlib.Path) -> list[str]:
    """Returns [the file's name] if its header is not an image's, else []."""
    try:
        Photo(path.read_bytes())
    except Undecodable:
        return [path.name]
    return []
