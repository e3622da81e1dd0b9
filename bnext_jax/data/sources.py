"""Datasets on disk: written once by TFDS as array_record, read by index without TensorFlow."""

import dataclasses
import logging
import os
import pathlib

from bnext_jax.data.transforms import decode
from bnext_jax.errors import UserError

FILE_FORMAT = "array_record"
DECODED_BYTES = 256 * 2**20  # a split stays decoded in memory where all of it fits in this (digits and CIFAR do)
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a prepared dataset.

    Attributes:
      name, split: for messages. records: random access, records[i] = {"image": encoded bytes, "label": int}.
      class_names: one a class, in label order.
    """

    name: str
    split: str
    records: object
    class_names: tuple

    decoded: dict = dataclasses.field(default_factory=dict, repr=False)  # images kept in memory, see example()

    def __len__(self):
        return len(self.records)

    def example(self, index):
        """(image uint8 [H,W,3], label) of one record. Images stay decoded in memory while they are small and few."""
        kept = self.decoded.get(index)
        if kept is None:
            record = self.records[index]
            kept = decode(record["image"]), int(record["label"])
            if kept[0].nbytes * len(self) <= DECODED_BYTES:
                self.decoded[index] = kept
        return kept


def _builder(data):
    """The TFDS builder of a DataConfig. Raises UserError for a name that TFDS does not know, and for data of another format."""
    import tensorflow_datasets as tfds

    directory = os.path.expanduser(data.directory) if data.directory else None
    try:
        if data.name == "digits":
            from bnext_jax.data.digits import Digits

            return Digits(data_dir=directory, file_format=FILE_FORMAT)
        return tfds.builder(data.name, data_dir=directory, file_format=FILE_FORMAT)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        if "File format is already set" in first:
            raise UserError(
                f"{data.name} was prepared in {directory or 'the default directory of TFDS'} in another format than {FILE_FORMAT};"
                " name another config.data.directory and run `prepare`"
            ) from error
        raise UserError(f"config.data.name {data.name!r} is no dataset that TFDS knows ({first}); see tensorflow.org/datasets") from error


def prepare(data):
    """Writes the dataset once, downloading it if it is one that has to be downloaded. TFDS does this atomically.

    Args:
      data: DataConfig.
    Returns:
      {"dataset", "directory", "splits": {name: examples}, "classes"}.
    Raises:
      UserError: unknown dataset, no classes, no network, or no room in the directory.
    """
    builder = _builder(data)
    _class_names(builder, data)
    if not builder.is_prepared():
        log.info("preparing %s in %s", data.name, builder.data_dir)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            builder.download_and_prepare(file_format=FILE_FORMAT)
        except Exception as error:  # TFDS and its downloader raise many kinds; each means that there is no dataset
            raise UserError(
                f"the dataset {data.name} could not be prepared in {builder.data_dir}: {' '.join(str(error).split())[:300]}"
            ) from error
    return {
        "dataset": data.name,
        "directory": str(builder.data_dir),
        "splits": {name: split.num_examples for name, split in builder.info.splits.items()},
        "classes": len(_class_names(builder, data)),
    }


def _class_names(builder, data):
    features = builder.info.features
    missing = [key for key in ("image", "label") if key not in features]
    if missing or not hasattr(features["label"], "num_classes"):
        raise UserError(f"dataset {data.name} is no classification dataset: it needs the features image and label (a class)")
    label = features["label"]
    return tuple(label.names or map(str, range(label.num_classes)))


def open_source(data, split):
    """One split of a prepared dataset; `digits` is prepared on first use.

    Args:
      data: DataConfig. split: the split's name, in TFDS's syntax ("train", "train[:90%]").
    Returns:
      Source.
    Raises:
      UserError: unknown dataset or split, or not prepared.
    """
    import tensorflow_datasets as tfds

    builder = _builder(data)
    if not builder.is_prepared():
        if data.name != "digits":
            raise UserError(
                f"dataset {data.name} is not in {pathlib.Path(builder.data_dir)}; run `python main.py prepare` with this config first"
            )
        prepare(data)
        builder = _builder(data)
    class_names = _class_names(builder, data)
    try:
        records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except (ValueError, KeyError, tfds.core.DatasetNotFoundError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"dataset {data.name} has no split {split!r}; it has {splits}") from error
    return Source(data.name, split, records, class_names)
