"""The command `prepare`: writes a dataset once, as array_record, with a manifest of its counts, class names and checksums.

TFDS writes to a temporary folder and renames it when the dataset is complete. The next start removes what an interrupted preparation left.
"""

import concurrent.futures
import json
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bnext_jax.config import Config, DataConfig
from bnext_jax.data.store import FEATURES, FILE_FORMAT, MANIFEST, TURNED, checksum_of, class_names, folder, open_builder, prepared_folder
from bnext_jax.errors import UserError, one_line
from bnext_jax.io import buckets
from bnext_jax.io.files import sha256, write_whole
from bnext_jax.io.paths import Path, to_path

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

log = logging.getLogger(__name__)
# The official files, which a user has to download by hand: name -> size in bytes; and the number of images in each split.
IMAGENET, IMAGENET_FILES = "imagenet2012", {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160}
IMAGENET_COUNTS = {"train": 1_281_167, "validation": 50_000}


def prepare_config(config: Config, source: str | None = None, manual_dir: str | None = None) -> dict[str, Any]:
    """Runs the command `prepare` for the dataset of a Config; see prepare."""
    return prepare(config.data, source, manual_dir)


def prepare(data: DataConfig, source: str | None = None, manual_dir: str | None = None) -> dict[str, Any]:
    """Writes the dataset of a config, unless it exists already.

    Args:
      data: names the dataset and its directory.
      source: a folder of class folders (data.datasets.folders) to make the dataset from; None: a dataset of TFDS, or digits.
      manual_dir: folder with the files that TFDS cannot download; for ImageNet, its two tar files. For any other dataset, IDX files in it
        are the dataset (data.datasets.idx).
    Returns:
      {"dataset": name, "directory": path, "splits": {name: number of examples}, "classes": number, "bytes": size of all files,
      "sha256": checksum of the manifest's list of files}.
    Raises:
      UserError: the dataset is unknown or has no classes, files are missing or incomplete, there is no network or no free space, or the
        dataset has no use for `source` or `manual_dir`.
    """
    if source and manual_dir:
        raise UserError("prepare takes --source or --manual_dir, not both")
    for flag, given in (("source", source), ("manual_dir", manual_dir)):
        if given and data.name == "digits":  # the name in every smoke form
            raise UserError(f"digits comes with scikit-learn and takes no --{flag}; leave it out, or name your dataset in config.data.name")
        if given and "://" in given:
            raise UserError(f"--{flag} {given} lies in a bucket; copy it to a disk, or mount the bucket with gcsfuse")
    where = prepared_folder(data)
    if where is None:
        where = _write(data, source, manual_dir)
    elif source or manual_dir:
        log.info("%s is there already; remove %s to prepare it again", data.name, where)
    builder = open_builder(data)
    manifest = _manifest(where, builder, data.name)
    turned = {split: count for split, count in manifest.get(TURNED, {}).items() if count}
    if turned and data.orientation == "stored":
        log.warning(
            "photos of %s that are not stored upright (EXIF orientation): %s; training and evaluation see them as they are stored, unless"
            " you set config.data.orientation='upright'",
            data.name, ", ".join(f"{count} of the {manifest['splits'][split]} of {split}" for split, count in turned.items()),
        )  # fmt: skip
    return {
        "dataset": data.name,
        "directory": str(where),
        "splits": manifest["splits"],
        "classes": len(manifest["classes"]),
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "sha256": checksum_of(manifest),
    }


def _write(data: DataConfig, source: str | None, manual_dir: str | None) -> Path:
    """Writes the dataset and returns its folder. TFDS can write only on disks, so a bucket gets a copy."""
    root = folder(data)
    if not root.bucket:
        return _write_on_disk(data, root, source, manual_dir)
    with tempfile.TemporaryDirectory() as temporary:
        made = _write_on_disk(data, to_path(temporary), source, manual_dir)
        where = root / os.path.relpath(made, temporary)
        log.info("copying the dataset to %s", where)
        buckets.patient(where, lambda: buckets.upload(pathlib.Path(made), where, last=FEATURES))
        return where


def _write_on_disk(data: DataConfig, root: Path, source: str | None, manual_dir: str | None) -> Path:
    import tensorflow_datasets as tfds

    for left in (root / data.name).glob("incomplete.*"):
        log.info("removing %s, left by a preparation that was interrupted", left)
        left.rmtree()
    builder = _builder(data, root, source, manual_dir)
    class_names(builder, data.name)
    if data.name == IMAGENET and not source:
        _check_imagenet_files(manual_dir)
    if builder.is_prepared():  # some TFDS datasets have a subfolder per TFDS config, which prepared_folder does not find
        return to_path(builder.data_path)
    log.info("preparing %s in %s", data.name, builder.data_dir)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if source or not sys.stderr.isatty():
        tfds.disable_progress_bar()  # our own bar shows the remaining time; and without a terminal there are no bars
    options = tfds.download.DownloadConfig(manual_dir=manual_dir) if manual_dir else None
    try:
        builder.download_and_prepare(download_config=options, file_format=FILE_FORMAT)
    except UserError:
        raise
    except Exception as error:  # TFDS and its downloader raise many types; each means failure
        advice = "; name another folder in TFDS_DATA_DIR" if isinstance(error, OSError) and not data.directory else ""
        raise UserError(f"the dataset {data.name} could not be prepared in {builder.data_dir}: {one_line(error)}{advice}") from error
    counts = {str(name): split.num_examples for name, split in builder.info.splits.items()}
    missing = {name: number for name, number in IMAGENET_COUNTS.items() if counts.get(name) != number}
    if data.name == IMAGENET and not source and missing:
        builder.data_path.rmtree()
        raise UserError(f"ImageNet has {IMAGENET_COUNTS}, the files in {manual_dir} held {counts}; they are incomplete, nothing was kept")
    return to_path(builder.data_path)


def _builder(data: DataConfig, root: Path, source: str | None, manual_dir: str | None) -> "tfds.core.DatasetBuilder":
    """Makes the TFDS builder that writes the dataset.

    Raises UserError if TFDS does not know the name or has no use for manual_dir, or if IDX files or class folders are damaged.
    """
    import tensorflow_datasets as tfds

    if manual_dir and not pathlib.Path(manual_dir).is_dir():
        raise UserError(f"--manual_dir {manual_dir} is no folder")
    if manual_dir and data.name != IMAGENET:
        from bnext_jax.data.datasets import idx

        if files := idx.find(manual_dir):
            built = idx.make_builder(data.name, os.fspath(root), files, FILE_FORMAT)
            _check_name(built, data.name, manual_dir)
            return built
    if source:
        from bnext_jax.data.datasets.folders import make_builder

        return make_builder(data.name, os.fspath(root), source, FILE_FORMAT)
    if data.name == "digits":
        from bnext_jax.data.datasets.digits import Digits

        return Digits(data_dir=os.fspath(root), file_format=FILE_FORMAT)
    try:
        builder = tfds.builder(data.name, data_dir=os.fspath(root), file_format=FILE_FORMAT)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        lacking = f", and --manual_dir {manual_dir} holds no IDX files" if manual_dir else ""
        raise UserError(
            f"config.data.name {data.name!r} is no dataset that TFDS knows ({first}){lacking}; see tensorflow.org/datasets,"
            " or give images in class folders with --source=DIR"
        ) from error
    if manual_dir and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:  # without them, TFDS does not look into the folder
        raise UserError(
            f"--manual_dir {manual_dir} holds no IDX files, and TFDS takes no files for {data.name}: it downloads them; name the folder of"
            " train-images-idx3-ubyte and the others, or leave out the flag"
        )
    return builder


def _check_name(built: "tfds.core.DatasetBuilder", name: str, folder: str) -> None:
    """Raises UserError if TFDS knows the dataset of this name, and its images or classes are others than those of the IDX files."""
    import tensorflow_datasets as tfds

    try:
        known = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError):
        return
    try:
        same = len(class_names(known, name)) == len(class_names(built, name))
    except UserError:  # texts, sounds, boxes
        same = False
    if not same or not _fits(built.info.features["image"].shape, known.info.features["image"].shape):
        raise UserError(
            f"the IDX files in {folder} are not {name}, whose images or classes are others; name your dataset in config.data.name"
        )


def _fits(shape: Sequence[int], known: Sequence[int | None]) -> bool:
    """Whether images of a shape may stand in a dataset with images of the shape `known`. None = any number."""
    return len(shape) == len(known) and all(b in (None, a) for a, b in zip(shape, known, strict=True))


def _check_imagenet_files(manual_dir: str | None) -> None:
    """Raises UserError unless both tar files exist with the right size. Checked first, because preparation takes hours."""
    if not manual_dir:
        raise UserError(
            f"ImageNet cannot be downloaded without an account: get {' and '.join(IMAGENET_FILES)} from image-net.org and name their"
            " folder with --manual_dir=DIR, or give class folders with --source=DIR"
        )
    for name, size in IMAGENET_FILES.items():
        path = pathlib.Path(manual_dir) / name
        found = path.stat().st_size if path.is_file() else 0
        if found != size:
            raise UserError(f"{path} has {found} bytes instead of {size}" if found else f"{path} is missing; get it from image-net.org")


def _manifest(where: Path, builder: "tfds.core.DatasetBuilder", name: str) -> dict[str, Any]:
    """Reads the manifest in a dataset's folder. Writes it first if it is missing.

    It is missing if another program wrote the dataset, or if preparation stopped before the manifest.
    """
    path = where / MANIFEST
    if path.exists():
        return json.loads(path.read_text())
    files = sorted(entry.name for entry in where.iterdir() if FILE_FORMAT in entry.name)
    log.info("checksums of %d files in %s", len(files), where)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = list(pool.map(sha256, [where / file for file in files]))
    noted = {file: {"bytes": (where / file).stat().length, "sha256": digest} for file, digest in zip(files, digests, strict=True)}
    manifest = {
        "dataset": name,
        "version": str(builder.version),
        "splits": {split: info.num_examples for split, info in builder.info.splits.items()},
        "classes": list(class_names(builder, name)),
        "files": noted,
    }
    if TURNED in (builder.info.metadata or {}):
        manifest[TURNED] = builder.info.metadata[TURNED]
    write_whole(path, json.dumps(manifest, indent=1), "manifest", "free space and run `prepare` again")
    return manifest
