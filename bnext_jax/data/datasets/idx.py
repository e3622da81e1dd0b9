"""Makes a TFDS dataset from IDX files, the format of MNIST: Fashion-MNIST, KMNIST, EMNIST, one's own.

A folder holds four files, each plain or with .gz: train-images-idx3-ubyte, train-labels-idx1-ubyte, and both with t10k in place of train.
Names may have a prefix ("emnist-letters-train-..."), a dot before idx ("train-images.idx3-ubyte"), and test in place of t10k.

A file begins with four bytes (0, 0, 8 for unsigned bytes, number of dimensions) and the dimensions as big-endian 32-bit numbers; the values
follow, the last dimension fastest. Images are [N,H,W] gray or [N,H,W,3], labels [N].
Format: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
"""

import gzip
import logging
import math
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bnext_jax.data.datasets.folders import check_name
from bnext_jax.errors import UserError, one_line

log = logging.getLogger(__name__)
UNSIGNED_BYTE = 0x08
LARGEST = 2**34  # bytes of a file's values: 16 GiB. A header may lie
SPLITS = {"train": "train", "t10k": "test", "test": "test"}  # word in the file's name -> split
# "._train-images-idx3-ubyte", which a Mac's archive adds, is no such name.
NAMES = re.compile(r"(?:(?P<prefix>[^.].*)[-_.])?(?P<split>train|t10k|test)[-_](?P<role>images|labels)[-_.]idx\d-ubyte(?:\.gz)?")
LIKE = re.compile(r"[-_.]idx\d-")  # also "validation-images-idx3-ubyte", "qmnist-train-labels-idx2-int"
# Datasets whose files do not tell the names of the classes. The names are those of TFDS.
CLASSES = {
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "fashion_mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
}


def find(folder: os.PathLike | str) -> dict[tuple[str, str], pathlib.Path]:
    """Finds the four files in a folder. Warns of other files that are named as IDX files are.

    Returns:
      {(split, "images" or "labels"): path}, split "train" or "test"; {} if no file has the name of an IDX file.
    Raises:
      UserError: only some of the files are there, two files have the same role, or their prefixes differ; or the folder cannot be read.
    """
    found: dict[tuple[str, str], pathlib.Path] = {}
    prefixes: dict[str | None, str] = {}
    try:
        paths = sorted(pathlib.Path(folder).iterdir())
    except OSError as error:
        raise UserError(f"--manual_dir {folder} cannot be read: {error.strerror or error}; give yourself access to it") from error
    left = [path.name for path in paths if LIKE.search(path.name) and not NAMES.fullmatch(path.name) and not path.name.startswith(".")]
    for path in paths:
        if match := NAMES.fullmatch(path.name):
            key = SPLITS[match["split"]], match["role"]
            prefixes.setdefault(match["prefix"], path.name)
            if len(prefixes) > 1:
                raise UserError(f"{folder} holds files of several datasets ({', '.join(prefixes.values())}); give each a folder of its own")
            if key in found:
                raise UserError(f"{folder} holds {found[key].name} and {path.name}, both the {key[1]} of {key[0]}; keep one of them")
            found[key] = path
    if not found:
        return {}
    kinds = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
    words = {"train": "train", "test": "t10k"}
    missing = [f"{words[split]}-{kinds[role]}" for split in words for role in kinds if (split, role) not in found]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}, each plain or with .gz; an IDX dataset needs all four files")
    if left:
        log.warning("left out of %s, because only train and t10k (or test) of unsigned bytes are read: %s", folder, ", ".join(left))
    return found


def read(path: os.PathLike | str, dimensions: tuple[int, ...]) -> np.ndarray:
    """Reads an IDX file.

    Args:
      path: the file, plain or with .gz.
      dimensions: the possible numbers of dimensions.
    Returns:
      uint8 array with the file's dimensions.
    Raises:
      UserError: the file is no IDX file of unsigned bytes, has other dimensions, is damaged, or holds more or fewer values than it says.
    """
    opened: Any = gzip.open if os.fspath(path).endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[3] not in dimensions:
                wanted = " or ".join(map(str, dimensions))
                raise UserError(f"{path} does not begin as an IDX file with {wanted} dimensions does; fetch it again")
            if head[2] != UNSIGNED_BYTE:
                raise UserError(f"{path} holds values of the type 0x{head[2]:02x}; only unsigned bytes (0x08) are read, so convert it")
            sizes = file.read(4 * head[3])
            shape = struct.unpack(f">{head[3]}I", sizes) if len(sizes) == 4 * head[3] else (0,)
            count = math.prod(shape)
            if not count:
                raise UserError(f"{path} holds nothing; fetch it again")
            if count > LARGEST:
                raise UserError(f"{path} says that it holds {count} bytes, more than {LARGEST}; it is damaged, or make it smaller")
            values = _read_some(file, count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); fetch it again") from error
    if len(values) != count:
        told = "fewer" if len(values) < count else "more"
        raise UserError(f"{path} holds {told} than the {count} bytes that its header says ({'x'.join(map(str, shape))}); fetch it again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_some(file: Any, most: int) -> bytearray:
    """Reads at most so many bytes, in pieces: a header that lies does not take memory that the file does not fill."""
    values = bytearray()
    while len(values) < most and (piece := file.read(min(most - len(values), 2**24))):
        values += piece
    return values


def load(files: Mapping[tuple[str, str], pathlib.Path]) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Reads and checks the four files.

    Args:
      files: as find returns them.
    Returns:
      ({"train": (images uint8 [N,H,W,1] or [N,H,W,3], classes uint8 [N], counted from 0), "test": likewise}, the labels as they stand in
      the files, one a class, as text).
    Raises:
      UserError: see read; or images and labels of a split differ in number, images of the splits differ in size, or a label of
        test does not occur in train.
    """
    found = {}
    for split in ("train", "test"):
        images, labels = read(files[split, "images"], (3, 4)), read(files[split, "labels"], (1,))
        images = images[..., None] if images.ndim == 3 else images
        if images.shape[-1] not in (1, 3):
            raise UserError(f"{files[split, 'images']} has images of {images.shape[-1]} channels; gray or three channels are read")
        if len(images) != len(labels):
            raise UserError(f"{files[split, 'images']} holds {len(images)} images, {files[split, 'labels'].name} {len(labels)} labels")
        found[split] = images, labels
    sizes = [images.shape[1:] for images, _ in found.values()]
    if sizes[0] != sizes[1]:
        told = f"{files['train', 'images']} has images of {sizes[0]}, {files['test', 'images'].name} of {sizes[1]}"
        raise UserError(f"{told}; they must have one size")
    used = np.unique(found["train"][1])
    if len(strange := np.setdiff1d(found["test"][1], used)):
        raise UserError(f"{files['test', 'labels']} has labels that train does not have: {', '.join(map(str, strange[:5]))}")
    if used[0] > 1 or len(used) != used[-1] - used[0] + 1:
        raise UserError(f"{files['train', 'labels']} has the labels {_ranges(used)}; they must be 0, 1, 2, ... or 1, 2, 3, ...")
    splits = {split: (images, labels - used[0]) for split, (images, labels) in found.items()}  # EMNIST's letters begin at 1
    return splits, tuple(map(str, used))


def _ranges(used: np.ndarray) -> str:
    return ", ".join(map(str, used[:8])) + (" ..." if len(used) > 8 else "")


def make_builder(
    name: str, directory: str, files: Mapping[tuple[str, str], pathlib.Path], file_format: str
) -> tfds.core.GeneratorBasedBuilder:
    """Makes the TFDS builder that writes IDX files as a dataset.

    Class names are those of CLASSES, else the labels as they stand in the files. Images are kept without loss.

    Args:
      name: name of the dataset: lower-case letters, digits and "_", starting with a letter.
      directory: folder of all datasets.
      files: as find returns them.
      file_format: TFDS's name of the format, e.g. "array_record".
    Returns:
      the builder.
    Raises:
      UserError: see load; or the name has another form, or a known dataset has another number of classes.
    """
    check_name(name)
    splits, labels = load(files)
    classes = CLASSES.get(name, labels)
    if len(classes) != len(labels):
        told = f"{files['train', 'labels']} has {len(labels)} classes, {name} has {len(classes)}"
        raise UserError(f"{told}; name another dataset in config.data.name")

    class Idx(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Images from IDX files."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            shape = splits["train"][0].shape[1:]
            features = {
                "image": tfds.features.Image(shape=shape, encoding_format="png"),
                "label": tfds.features.ClassLabel(names=list(classes)),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label"))

        def _split_generators(self, dl_manager):
            del dl_manager  # nothing is downloaded
            return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

        def _generate_examples(self, images, labels):
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield index, {"image": image, "label": int(label)}

    Idx.name = name
    return Idx(data_dir=directory, file_format=file_format)
