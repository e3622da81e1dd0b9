"""Reads the splits of prepared datasets (data.prepare) by index, without TensorFlow."""

import dataclasses
from typing import Any

import numpy as np

from bnext_jax.config import DataConfig
from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.data.prepare import prepare
from bnext_jax.data.store import class_names, open_builder, prepared_folder
from bnext_jax.errors import UserError
from bnext_jax.io.paths import Path, to_path

DECODED_BYTES = 256 * 2**20  # a split whose decoded images need no more than this stays in memory (digits, CIFAR)


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a prepared dataset.

    Attributes:
      name: name of the dataset, for messages.
      split: name of the split, for messages.
      records: random access: records[i] = {"image": encoded bytes, "label": int, "file_name": bytes or str (optional)}.
      class_names: one name per class, in label order.
      upright: whether images are turned as their EXIF data say, see Photo.
      folder: where the dataset lies; None if that is unknown.
      decoded: {index: (pixels, label, file name)} of the images that stay in memory.
    """

    name: str
    split: str
    records: Any
    class_names: tuple
    upright: bool = False
    folder: Path | None = None
    decoded: dict = dataclasses.field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state to pickle for a worker process, without the decoded images.

        Other threads may be adding decoded images at the same time. The worker keeps its own.
        """
        return {**vars(self), "decoded": {}}

    def __len__(self) -> int:
        return len(self.records)

    def example(self, index: int) -> tuple[Photo | np.ndarray, int]:
        """Reads one example.

        Args:
          index: position in the split.
        Returns:
          (image, label). image: a Photo (encoded). In a split of at most DECODED_BYTES: uint8 [H,W,3].
        Raises:
          photo.Undecodable: the image cannot be decoded.
          UserError: the image has no label.
        """
        return self.named_example(index)[:2]

    def named_example(self, index: int) -> tuple[Photo | np.ndarray, int, bytes]:
        """Like `example`, but returns (image, label, file name). The file name is b"" if the dataset does not have one."""
        kept = self.decoded.get(index)
        if kept is None:
            record = self.records[index]
            image, label, name = Photo(record["image"], upright=self.upright), self._label(index, record), _file_name(record)
            if 3 * image.height * image.width * len(self) > DECODED_BYTES:
                return image, label, name
            kept = self.decoded[index] = image.pixels(), label, name
        return kept

    def _label(self, index, record):
        """Returns a record's label. Raises UserError if it is not the number of a class: TFDS marks images without a label with -1."""
        label = int(record["label"])
        if not 0 <= label < len(self.class_names):
            raise UserError(
                f"image {index} of {self.name}'s split {self.split!r} has the label {label}, which is none of the {len(self.class_names)}"
                " classes: the split is not labelled, so it can be neither trained on nor evaluated; name another split"
            )
        return label

    def describe(self, index: int) -> str:
        """Returns a text: the image's file name, index and split. If it cannot be decoded, the text says why."""
        record = self.records[index]
        text = f"{_file_name(record).decode(errors='replace')} ".lstrip()
        try:
            Photo(record["image"]).pixels()
        except Undecodable as error:
            return f"{text}(image {index} of {self.split}: {error})"
        return f"{text}(image {index} of {self.split})"


def _file_name(record: dict[str, Any]) -> bytes:
    name = record.get("file_name", b"")
    return name if isinstance(name, bytes) else str(name).encode()


def open_source(data: DataConfig, split: str) -> Source:
    """Opens one split of a prepared dataset. Prepares `digits` on first use.

    Args:
      data: names the dataset and its directory.
      split: the split, in TFDS's syntax ("train", "train[:90%]").
    Returns:
      the split.
    Raises:
      UserError: the dataset cannot be opened (see store.open_builder), or the split is unknown.
    """
    import tensorflow_datasets as tfds

    if data.name == "digits" and prepared_folder(data) is None:
        prepare(data)
    builder = open_builder(data)
    names = class_names(builder, data.name)
    try:
        records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except (ValueError, KeyError, tfds.core.DatasetNotFoundError) as error:
        splits = ", ".join(builder.info.splits)
        raise UserError(f"dataset {data.name} has no split {split!r}; it has {splits}") from error
    return Source(data.name, split, records, names, upright=data.orientation == "upright", folder=to_path(builder.data_path))
