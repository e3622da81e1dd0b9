"""Datasets on disk: where they lie, and whether they are whole. data.prepare writes them, data.splits reads them."""

import json
import os
import re
import threading

from etils import epath

from bnext_jax.errors import UserError, one_line
from bnext_jax.host.process import program
from bnext_jax.io.files import sha256

FILE_FORMAT = "array_record"
MANIFEST = "prepared.json"  # beside the dataset: counts, class names, size and sha256 of each file
REACHABLE_SECONDS = 25  # within which a bucket has to answer


def folder(data):
    """The folder of all datasets (epath.Path) of a DataConfig: a local one, or a bucket's (gs://...).

    Raises UserError where a bucket does not answer within REACHABLE_SECONDS.
    """
    if not data.directory:
        return epath.Path(os.path.expanduser("~/tensorflow_datasets"))
    path = epath.Path(os.path.expanduser(data.directory))
    if "://" in data.directory:
        _check_reachable(data.directory, path)
    return path


def _check_reachable(name, path):
    outcome = []

    def ask():
        try:
            outcome.append(path.exists())
        except Exception as error:  # each file system has kinds of its own
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # clients of buckets retry for many minutes; nothing can stop them
    thread.start()
    thread.join(REACHABLE_SECONDS)
    if not outcome or isinstance(outcome[0], Exception):
        reason = one_line(outcome[0]) if outcome else f"no answer within {REACHABLE_SECONDS} s"
        raise UserError(
            f"config.data.directory {name} cannot be reached ({reason}); check its name, the network and the credentials,"
            " or mount the bucket with gcsfuse and name the mounted folder"
        )


def prepared_folder(data):
    """The newest version's folder of a prepared dataset (epath.Path), or None."""
    where = [path.parent for path in (folder(data) / data.name).glob("*/features.json")]
    versions = [path for path in where if re.fullmatch(r"[0-9]+([.][0-9]+)*", path.name)]  # not incomplete.XXXXXX_1.0.0
    return max(versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def class_names(builder, name):
    """The names of a TFDS builder's classes, in label order. Raises UserError where it is no classification dataset."""
    features = builder.info.features
    missing = [key for key in ("image", "label") if key not in features]
    if missing or not hasattr(features["label"], "num_classes"):
        raise UserError(f"dataset {name} is no classification dataset: it needs the features image and label (a class)")
    label = features["label"]
    return tuple(label.names or map(str, range(label.num_classes)))


def open_builder(data):
    """The TFDS builder of a prepared dataset, read-only.

    Raises UserError where it is not prepared, was prepared in another format, or has lost bytes since.
    """
    import tensorflow_datasets as tfds

    where = prepared_folder(data)
    if where is None:
        raise UserError(f"dataset {data.name} is not in {folder(data)}; run `{program()} prepare` with this config first")
    try:
        builder = tfds.builder_from_directory(where)
    except Exception as error:  # its many files can be damaged in many ways
        raise UserError(f"the dataset in {where} cannot be opened ({one_line(error)}); remove it and run `prepare` again") from error
    if builder.info.file_format is None or builder.info.file_format.value != FILE_FORMAT:
        raise UserError(
            f"{data.name} was prepared in {folder(data)} in another format than {FILE_FORMAT}; name another config.data.directory"
            " and run `prepare`"
        )
    _check_sizes(where)
    return builder


def _check_sizes(where):
    """Compares the sizes of a local dataset's files with its manifest, where it has one."""
    manifest = where / MANIFEST
    if "://" in os.fspath(where) or not manifest.exists():  # asking a bucket for each of a thousand files takes a minute
        return
    for name, noted in json.loads(manifest.read_text())["files"].items():
        found = (where / name).stat().length if (where / name).exists() else 0
        if found != noted["bytes"]:
            raise UserError(
                f"{where / name} has {found} bytes, {MANIFEST} beside it says {noted['bytes']}; remove {where} and run `prepare` again"
            )


def checksum(data):
    """sha256 of a prepared dataset's manifest, which holds those of its files; "" where it has none. data: DataConfig."""
    where = prepared_folder(data)
    manifest = where / MANIFEST if where else None
    return sha256(manifest) if manifest and manifest.exists() else ""
