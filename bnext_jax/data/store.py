"""Finds and checks the prepared datasets on disk or in a bucket. data.prepare writes them, data.splits reads them."""

import json
import os
import re
import threading
from typing import TYPE_CHECKING

from etils import epath

from bnext_jax.config import DataConfig
from bnext_jax.errors import UserError, one_line
from bnext_jax.host.process import program
from bnext_jax.io.files import sha256

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

FILE_FORMAT = "array_record"
MANIFEST = "prepared.json"  # in the dataset's folder: counts, class names, size and sha256 of each file
REACHABLE_SECONDS = 25  # time limit for an answer from a bucket


def folder(data: DataConfig) -> epath.Path:
    """Returns the folder of all datasets: a local folder, or a bucket's (gs://...).

    Args:
      data: its `directory` names the folder; "" = TFDS's own: $TFDS_DATA_DIR, or ~/tensorflow_datasets.
    Returns:
      the folder, which need not exist.
    Raises:
      UserError: the user has no home folder, the bucket cannot be reached, or it does not answer within REACHABLE_SECONDS.
    """
    name = data.directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = epath.Path(os.path.expanduser(name))
    if not data.directory and os.fspath(path).startswith("~"):
        raise UserError("this user has no home folder for the datasets; name a folder in config.data.directory or in TFDS_DATA_DIR")
    if "://" in name:
        _check_reachable(name, path)
    return path


def _check_reachable(name: str, path: epath.Path) -> None:
    outcome: list[bool | Exception] = []

    def ask():
        try:
            outcome.append(path.exists())
        except Exception as error:  # each file system has its own exception types
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # bucket clients retry for many minutes and cannot be stopped
    thread.start()
    thread.join(REACHABLE_SECONDS)
    if not outcome or isinstance(outcome[0], Exception):
        reason = one_line(outcome[0]) if outcome else f"no answer within {REACHABLE_SECONDS} s"
        raise UserError(
            f"config.data.directory {name} cannot be reached ({reason}); check its name, the network and the credentials,"
            " or mount the bucket with gcsfuse and name the mounted folder"
        )


def prepared_folder(data: DataConfig) -> epath.Path | None:
    """Returns the folder of a prepared dataset's newest version; None if the dataset is not prepared."""
    where = [path.parent for path in (folder(data) / data.name).glob("*/features.json")]
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


def size(path: epath.Path) -> int:
    """The size of a file in bytes. (epath's stat fails for a local file whose owner has no name on this machine, as in containers.)"""
    return path.stat().length if "://" in os.fspath(path) else os.path.getsize(path)


def _check_sizes(where: epath.Path) -> None:
    """Compares the sizes of a local dataset's files with its manifest, if there is one."""
    manifest = where / MANIFEST
    if "://" in os.fspath(where) or not manifest.exists():  # with a thousand files, asking a bucket for the sizes takes a minute
        return
    for name, noted in json.loads(manifest.read_text())["files"].items():
        found = size(where / name) if (where / name).exists() else 0
        if found != noted["bytes"]:
            raise UserError(
                f"{where / name} has {found} bytes, {MANIFEST} beside it says {noted['bytes']}; remove {where} and run `prepare` again"
            )


def checksum(data: DataConfig) -> str:
    """Returns the sha256 of a dataset's manifest, which contains the checksums of all files; "" if there is no manifest."""
    where = prepared_folder(data)
    manifest = where / MANIFEST if where else None
    return sha256(manifest) if manifest and manifest.exists() else ""
