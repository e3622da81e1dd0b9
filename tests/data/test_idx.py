"""Datasets from IDX files: what is read, and what is refused."""

import gzip
import pathlib
import shutil
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bnext_jax.config import DataConfig
from bnext_jax.data.datasets import idx
from bnext_jax.data.prepare import prepare
from bnext_jax.data.splits import open_source
from bnext_jax.errors import UserError
from tests.helpers.commands import refused

RNG = np.random.default_rng(0)
GRAY = {"train": RNG.integers(0, 256, (6, 5, 4), np.uint8), "t10k": RNG.integers(0, 256, (4, 5, 4), np.uint8)}
LABELS = {"train": np.array([0, 1, 2, 0, 1, 2], np.uint8), "t10k": np.array([2, 0, 1, 1], np.uint8)}


def encoded(array):
    """An IDX file's bytes, from the description of the format."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, images=GRAY, labels=LABELS, zipped=(), prefix="", infix="-"):
    """Writes the four files of a dataset. zipped: splits whose files get .gz."""
    folder.mkdir(exist_ok=True)
    for split in ("train", "t10k"):
        for role, array in (("images", images[split]), ("labels", labels[split])):
            name, content = f"{prefix}{split}-{role}{infix}idx{array.ndim}-ubyte", encoded(array)
            (folder / (f"{name}.gz" if split in zipped else name)).write_bytes(gzip.compress(content) if split in zipped else content)
    return folder


def examples(tmp_path, folder, name="clothes"):
    """{split: [(pixels, label)]} of the dataset made of a folder, and its class names."""
    data = DataConfig(name=name, directory=str(tmp_path / "data"))
    result = prepare(data, manual_dir=str(folder))
    assert result["splits"] == {"train": 6, "test": 4}
    sources = {split: open_source(data, split) for split in ("train", "test")}
    return {split: [source.example(i) for i in range(len(source))] for split, source in sources.items()}, sources["train"].class_names


def agrees(found, images, labels):
    """Whether the examples are these images with these labels, in any order."""
    there = sorted((pixels.tobytes(), label) for pixels, label in found)
    return there == sorted((np.broadcast_to(x, (*x.shape[:2], 3)).tobytes(), int(label)) for x, label in zip(images, labels, strict=True))


@pytest.mark.parametrize(("zipped", "prefix", "infix"), [((), "", "-"), (("train", "t10k"), "emnist-letters-", "-"), (("t10k",), "", ".")])
def test_all_images_and_labels_are_kept_whatever_form_the_names_have(tmp_path, zipped, prefix, infix):
    found, classes = examples(tmp_path, write(tmp_path / "idx", zipped=zipped, prefix=prefix, infix=infix))
    for split, file in (("train", "train"), ("test", "t10k")):
        assert agrees(found[split], GRAY[file][..., None], LABELS[file])
    assert classes == ("0", "1", "2")


def test_images_may_have_three_channels_and_labels_may_begin_at_one(tmp_path):
    color = {split: RNG.integers(0, 256, (*images.shape, 3), np.uint8) for split, images in GRAY.items()}
    shifted = {split: labels + 1 for split, labels in LABELS.items()}
    found, classes = examples(tmp_path, write(tmp_path / "idx", color, shifted))
    assert agrees(found["train"], color["train"], LABELS["train"]) and agrees(found["test"], color["t10k"], LABELS["t10k"])
    assert classes == ("1", "2", "3")  # the numbers in the files


def test_fashion_mnist_has_the_names_of_its_clothes(tmp_path, run):
    labels = {"train": np.arange(10, dtype=np.uint8), "t10k": np.arange(10, dtype=np.uint8)}
    images = {split: RNG.integers(0, 256, (10, 28, 28), np.uint8) for split in labels}
    folder = write(tmp_path / "idx", images, labels, zipped=("train", "t10k"))
    words = ["--config=configs/fashion.py", f"--manual_dir={folder}", f"--config.data.directory={tmp_path / 'data'}"]
    code, result, error = run("prepare", *words)
    assert code == 0, error
    assert (result["dataset"], result["splits"], result["classes"]) == ("fashion_mnist", {"train": 10, "test": 10}, 10)
    source = open_source(DataConfig(name="fashion_mnist", directory=str(tmp_path / "data")), "test")
    assert (source.class_names[0], source.class_names[9]) == ("T-shirt/top", "Ankle boot")
    write(folder)
    words[-1] += "2"
    refused(run("prepare", *words), "holds t10k-images-idx3-ubyte and t10k-images-idx3-ubyte.gz, both the images of test; keep one")
    assert not (tmp_path / "data2" / "fashion_mnist").exists()


def broken(name, change):
    """A dataset one of whose files is changed. name: the file; change: its bytes -> new bytes, or None to remove it."""

    def make(folder):
        path = write(folder) / name
        content = change(path.read_bytes())
        path.unlink() if content is None else path.write_bytes(content)

    return make


TRAIN, LABEL, TEST = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken(TRAIN, lambda b: b[:-1]), "train-images-idx3-ubyte holds fewer than the 120 bytes that its header says (6x5x4)"),
        (broken(TRAIN, lambda b: b + b"\0"), "holds more than the 120 bytes"),
        (broken(TRAIN, lambda b: b[:10]), "train-images-idx3-ubyte holds nothing"),
        (broken(TRAIN, lambda b: b""), "does not begin as an IDX file with 3 or 4 dimensions does"),
        (broken(TRAIN, lambda b: b"\1" + b[1:]), "does not begin as an IDX file"),
        (broken(TRAIN, lambda b: b[:2] + b"\x0d" + b[3:]), "holds values of the type 0x0d; only unsigned bytes (0x08) are read"),
        (broken(TRAIN, lambda b: b[:4] + b"\xff" * 12 + b[16:]), "more than 17179869184; it is damaged"),
        (broken(LABEL, lambda b: encoded(LABELS["train"][:5])), "holds 6 images, train-labels-idx1-ubyte 5 labels"),
        (broken(LABEL, lambda b: encoded(np.array([0, 1, 2, 9, 1, 2], np.uint8))), "has the labels 0, 1, 2, 9; they must be 0, 1, 2, ..."),
        (broken(TEST, lambda b: encoded(np.array([0, 1, 2, 7], np.uint8))), "has labels that train does not have: 7"),
        (broken(TEST, lambda b: None), "lacks t10k-labels-idx1-ubyte, each plain or with .gz"),
        (
            broken("t10k-images-idx3-ubyte", lambda b: encoded(GRAY["t10k"][:, :4])),
            "has images of (5, 4, 1), t10k-images-idx3-ubyte of (4, 4, 1); they must have one size",
        ),
        (lambda folder: write(folder, {s: np.zeros((*x.shape, 2), np.uint8) for s, x in GRAY.items()}), "has images of 2 channels"),
    ],
)
def test_a_damaged_dataset_is_refused_in_one_sentence(tmp_path, make, message):
    make(tmp_path / "idx")
    with pytest.raises(UserError) as raised:
        prepare(DataConfig(name="clothes", directory=str(tmp_path / "data")), manual_dir=str(tmp_path / "idx"))
    assert message in str(raised.value)
    assert not (tmp_path / "data" / "clothes").exists()


@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b[:30] + bytes(8) + b[38:], lambda b: b"plain"])
def test_a_damaged_gz_file_is_refused_with_its_name(tmp_path, spoil):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(gzip.compress(encoded(GRAY["train"]))))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz (cannot be read|holds)"):
        idx.read(path, (3,))


def test_a_small_file_that_unpacks_to_more_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(encoded(GRAY["train"]) + bytes(2**26)))
    with pytest.raises(UserError, match="holds more than the 120 bytes"):
        idx.read(path, (3,))


@pytest.mark.parametrize("name", idx.CLASSES)
def test_the_classes_are_named_as_tfds_names_them(name, tmp_path):
    assert idx.CLASSES[name] == tuple(tfds.builder(name, data_dir=str(tmp_path)).info.features["label"].names)


def test_a_dataset_of_ten_known_classes_is_refused_if_the_files_have_three(tmp_path):
    folder = write(tmp_path / "idx")
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte has 3 classes, kmnist has 10; name another dataset in config.data.name"):
        idx.make_builder("kmnist", str(tmp_path), idx.find(folder), "array_record")


def test_a_folder_that_holds_two_datasets_is_refused_and_hidden_files_do_not_count(tmp_path):
    folder = write(tmp_path / "idx", prefix="emnist-letters-")
    expected = idx.find(folder)
    shutil.copy(folder / "emnist-letters-t10k-images-idx3-ubyte", folder / "._emnist-letters-t10k-images-idx3-ubyte")
    assert idx.find(folder) == expected and len(expected) == 4
    for path in folder.glob("emnist*t10k*"):  # four files, but of two datasets
        path.rename(folder / path.name.replace("letters", "digits"))
    message = r"several datasets \(emnist-digits-t10k-images-idx3-ubyte, emnist-letters-train-images-idx3-ubyte\); give each a folder"
    with pytest.raises(UserError, match=message):
        idx.find(folder)


def test_a_folder_without_permission_is_one_sentence(tmp_path, run, monkeypatch):
    folder = write(tmp_path / "idx")

    def iterdir(path):  # tests run as root, who may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "iterdir", iterdir)
    words = ["--config=configs/fashion.py", f"--config.data.directory={tmp_path / 'data'}", f"--manual_dir={folder}"]
    refused(run("prepare", *words), f"--manual_dir {folder} cannot be read: Permission denied; give yourself access to it")


@pytest.mark.parametrize("flag", ["manual_dir", "source"])
def test_digits_are_never_made_of_other_images(tmp_path, run, flag):
    folder = write(tmp_path / "idx")
    words = ["--config=configs/fashion.py:smoke", f"--config.data.directory={tmp_path / 'data'}", f"--{flag}={folder}"]
    refused(run("prepare", *words), f"digits comes with scikit-learn and takes no --{flag}; leave it out, or name your dataset")
    assert not (tmp_path / "data").exists()


def test_files_are_read_once_and_a_second_call_says_so(tmp_path, caplog):
    folder, data = write(tmp_path / "idx"), DataConfig(name="clothes", directory=str(tmp_path / "data"))
    caplog.set_level("INFO", "bnext_jax")
    first = prepare(data, manual_dir=str(folder))
    assert "is there already" not in caplog.text
    shutil.rmtree(folder)
    assert prepare(data, manual_dir=str(folder)) == first
    assert f"clothes is there already; remove {tmp_path / 'data/clothes/1.0.0'} to prepare it again" in caplog.text


def test_a_folder_without_idx_files_is_left_to_tfds_if_tfds_has_a_use_for_it(tmp_path, run):
    (tmp_path / "files").mkdir()
    words = ["--config=configs/fashion.py", f"--config.data.directory={tmp_path / 'data'}", "--config.data.name=no_such_dataset"]
    refused(run("prepare", *words, f"--manual_dir={tmp_path / 'files'}"), "is no dataset that TFDS knows", "files holds no IDX files; see")
    refused(run("prepare", *words, f"--manual_dir={tmp_path / 'none'}"), "--manual_dir", "is no folder")
    refused(
        run("prepare", *words, f"--manual_dir={write(tmp_path / 'idx')}", "--config.data.name=My-Set"), "'My-Set' cannot name a dataset"
    )
    words[-1] = "--config.data.name=fashion_mnist"
    refused(
        run("prepare", *words, f"--manual_dir={tmp_path / 'files'}"), "files holds no IDX files, and TFDS takes no files for fashion_mnist"
    )
    assert not (tmp_path / "data").exists()


def test_idx_files_are_not_written_under_the_name_of_another_dataset(tmp_path, run):
    words = [
        "--config=configs/cifar10_bnext18.py",
        f"--manual_dir={write(tmp_path / 'idx')}",
        f"--config.data.directory={tmp_path / 'data'}",
    ]
    refused(run("prepare", *words), "are not cifar10, whose images or classes are others; name your dataset in config.data.name")
    assert not (tmp_path / "data" / "cifar10").exists()


def test_idx_files_are_not_written_under_the_name_of_a_dataset_without_images(tmp_path):
    folder = write(tmp_path / "idx", labels={split: labels % 2 for split, labels in LABELS.items()})
    with pytest.raises(UserError, match="are not imdb_reviews, whose images or classes are others"):  # texts, of two classes too
        prepare(DataConfig(name="imdb_reviews", directory=str(tmp_path / "data")), manual_dir=str(folder))
    assert not (tmp_path / "data" / "imdb_reviews").exists()


def test_other_files_that_are_named_as_idx_files_are_left_out_with_a_warning(tmp_path, caplog):
    folder = write(tmp_path / "idx")
    expected = idx.find(folder)
    assert not caplog.records
    for name in ("validation-images-idx3-ubyte", "train-labels-idx2-int.gz", "._t10k-images-idx3-ubyte", "mapping.txt", "faces.idx"):
        (folder / name).touch()
    assert idx.find(folder) == expected
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith("are read: train-labels-idx2-int.gz, validation-images-idx3-ubyte")
