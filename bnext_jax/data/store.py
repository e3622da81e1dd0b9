"""Finds and checks the prepared datasets on disk or in a bucket. data.prepare writes them, data.splits reads them."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnext_jax.config import DataConfig
from bnext_jax.errors import UserError, one_line
from bnext_jax.host import cache
from bnext_jax.host.process import program
from bnext_jax.io import buckets
from bnext_jax.io.paths import Path, to_path

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

FILE_FORMAT = "array_record"
FEATURES = "features.json"  # TFDS's file in a dataset's folder; the folder is a dataset if it has this file
MANIFEST = "prepared.json"  # in the dataset's folder: counts, class names, size and sha256 of each file
TURNED = "turned"  # entry of the manifest: {split: number of images with a turn in their EXIF data}; only if the images were files
TURNED_SHARE = 0.01  # if a larger share of the training images has a turn in its EXIF data, `predict` must not turn photos either


def folder(data: DataConfig) -> Path:
    """Returns the folder of all datasets: a local folder, or a bucket's (gs://...).

    Args:
      data: its `directory` names the folder; "" = TFDS's own: $TFDS_DATA_DIR, or ~/tensorflow_datasets.
    Returns:
      the folder, which need not exist.
    Raises:
      UserError: nothing here can use this path, see io.paths.to_path, or its bucket cannot be reached; or the user has no home folder.
    """
    name = data.directory or os.environ.get("TFDS_DATA_DIR")
    if not name and cache.home() is None:
        raise UserError("this user has no home folder for the datasets; name a folder in config.data.directory or in TFDS_DATA_DIR")
    path = to_path(name or "~/tensorflow_datasets", "config.data.directory")
    buckets.check(path, "config.data.directory")
    return path


def prepared_folder(data: DataConfig) -> Path | None:
    """Returns the folder of a prepared dataset's newest version; None if the dataset is not prepared."""
    where = [path.parent for path in (folder(data) / data.name).glob(f"*/{FEATURES}")]
    versions = [path for path in where if re.fullmatch(r"[0-9]+([.][0-9]+)*", path.name)]  # not incomplete.XXXXXX_1.0.0
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def class_names(builder: "tfds.core.DatasetBuilder", name: str) -> tuple[str, ...]:
    """Returns the class names of a dataset, in label order.

    Args:
      builder: the dataset's TFDS builder.
      name: the dataset's name, for the message.
    Returns:
      one name per class; the label's number as text where TFDS has no names.
    Raises:
      UserError: the dataset is not a classification dataset.
    """
    features = builder.info.features
    missing = [key for key in ("image", "label") if key not in features]
    if missing or not hasattr(features["label"], "num_classes"):
        raise UserError(f"dataset {name} is no classification dataset: it needs the features image and label (a class)")
    label = features["label"]
    return tuple(label.names or map(str, range(label.num_classes)))


def open_builder(data: DataConfig) -> "tfds.core.DatasetBuilder":
    """Opens a prepared dataset for reading.

    Args:
      data: names the dataset and its directory.
    Returns:
      a read-only TFDS builder.
    Raises:
      UserError: the dataset is not prepared, has another file format, or has damaged files (their sizes differ from the manifest's).
    """
    import tensorflow_datasets as tfds

    where = prepared_folder(data)
    if where is None:
        raise UserError(f"dataset {data.name} is not in {folder(data)}; run `{program()} prepare` with this config first")
    try:
        builder = tfds.builder_from_directory(where)
    except Exception as error:  # damaged files raise many types of errors
        raise UserError(f"the dataset in {where} cannot be opened ({one_line(error)}); remove it and run `prepare` again") from error
    if builder.info.file_format is None or builder.info.file_format.value != FILE_FORMAT:
        raise UserError(
            f"{data.name} was prepared in {folder(data)} in another format than {FILE_FORMAT}; name another config.data.directory"
            " and run `prepare`"
        )
    _check_sizes(where)
    return builder


def _check_sizes(where: Path) -> None:
    """Compares the sizes of a local dataset's files with its manifest, if there is one."""
    manifest = where / MANIFEST
    if where.bucket or not manifest.exists():  # with a thousand files, asking a bucket for the sizes takes a minute
        return
    for name, noted in json.loads(manifest.read_text())["files"].items():
        found = (where / name).stat().length if (where / name).exists() else 0
        if found != noted["bytes"]:
            raise UserError(
                f"{where / name} has {found} bytes, {MANIFEST} beside it says {noted['bytes']}; remove {where} and run `prepare` again"
            )


def _manifest(data: DataConfig) -> dict[str, Any]:
    """Reads a dataset's manifest; {} if there is none."""
    where = prepared_folder(data)
    manifest = where / MANIFEST if where else None
    return json.loads(manifest.read_text()) if manifest and manifest.exists() else {}


def orientation(data: DataConfig) -> str:
    """Returns how photos must be shown to a network that trains on a dataset, so that they look like its training images.

    Args:
      data: names the dataset, its training split and config.data.orientation.
    Returns:
      "upright"; or "stored" if images are not turned in training and more than TURNED_SHARE of the training images have a turn in their
      EXIF data. Where the manifest counts no turns, there are none: ImageNet's photos are practically all stored upright.
    """
    if data.orientation == "upright":
        return data.orientation
    manifest = _manifest(data)
    everything = re.search(r"\ball\b", data.train_split)  # TFDS's name of all splits together
    named = {name for name in manifest.get(TURNED, {}) if everything or re.search(rf"\b{re.escape(name)}\b", data.train_split)}
    turned = {name: manifest[TURNED][name] for name in named}
    return "stored" if sum(turned.values()) > TURNED_SHARE * sum(manifest["splits"][name] for name in turned) else "upright"


def checksum(data: DataConfig) -> str:
    """Returns one sha256 over the sizes and checksums of a dataset's files, from its manifest; "" if there is no manifest."""
    manifest = _manifest(data)
    return checksum_of(manifest) if manifest else ""


def checksum_of(manifest: Mapping[str, Any]) -> str:
    """Returns the checksum of a manifest's dataset. It depends on the files alone, not on what else the manifest tells."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()
