"""The splits of datasets that data.prepare wrote, read by index without TensorFlow."""

import dataclasses

from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.data.prepare import prepare
from bnext_jax.data.store import class_names, open_builder, prepared_folder
from bnext_jax.errors import UserError

DECODED_BYTES = 256 * 2**20  # a split stays decoded in memory where all of it fits in this (digits and CIFAR do)


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

    def __getstate__(self):
        """A copy for a worker process starts without the kept images: threads may be adding to them, and it keeps its own."""
        return {**vars(self), "decoded": {}}

    def __len__(self):
        return len(self.records)

    def example(self, index):
        """(image, label) of one record: a Photo, or uint8 [H,W,3], kept in memory, where images are small and few.

        Raises photo.Undecodable.
        """
        return self.named_example(index)[:2]

    def named_example(self, index):
        """(image, label, name of the file that the record was made from, bytes, b"" where the dataset does not know it); see example."""
        kept = self.decoded.get(index)
        if kept is None:
            record = self.records[index]
            image, *others = Photo(record["image"]), int(record["label"]), _file_name(record)
            if 3 * image.height * image.width * len(self) > DECODED_BYTES:
                return image, *others
            kept = self.decoded[index] = image.pixels(), *others
        return kept

    def describe(self, index):
        """Text: an image's name in the dataset and, where it cannot be decoded, why."""
        record = self.records[index]
        text = f"{_file_name(record).decode(errors='replace')} ".lstrip()
        try:
            Photo(record["image"]).pixels()
        except Undecodable as error:
            return f"{text}(image {index} of {self.split}: {error})"
        return f"{text}(image {index} of {self.split})"


def _file_name(record):
    name = record.get("file_name", b"")
    return name if isinstance(name, bytes) else str(name).encode()


def open_source(data, split):
    """One split of a prepared dataset; `digits` is prepared on first use.

    Args:
      data: DataConfig. split: the split's name, in TFDS's syntax ("train", "train[:90%]").
    Returns:
      Source.
    Raises:
      UserError: see open_builder; also an unknown split.
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
    return Source(data.name, split, records, names)
