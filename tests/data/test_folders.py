"""Class folders are read as torchvision's ImageFolder reads them; what is left out is named, and what cannot be kept is refused."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from bnext_jax.config import DataConfig
from bnext_jax.data import splits
from bnext_jax.data.datasets import folders
from bnext_jax.data.decode.photo import Photo
from bnext_jax.data.prepare import prepare
from bnext_jax.errors import UserError
from tests.helpers import photographs
from tests.helpers.commands import refused
from tests.helpers.torchvision_folder import image_folder

TINY = photographs.TINY
NAMES = ("Zebra", "ant", "10", "9", "Ärger", "a[b]", "a", "*?", "two words")  # class names whose order is easily got wrong


def put(path, data=TINY[0]):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def source(tmp_path):
    """Class folders NAMES with one image each, in train and val, below a folder with glob characters in its name."""
    root = tmp_path / "my [photos]*"
    for number, name in enumerate(NAMES):
        put(root / "train" / name / "x[1]?.jpg", TINY[number % len(TINY)])
        put(root / "val" / name / "y.jpg")
    return root


def both(root):
    """What scan and ImageFolder find in train: two sets of (path, label)."""
    classes, found = folders.scan(root)
    theirs = image_folder(root / "train")
    assert classes == theirs.classes
    ours = {(str(root / path), classes.index(name)) for path, name in found["train"]}
    assert len(ours) == len(found["train"])
    return ours, set(theirs.samples)


def test_classes_labels_and_images_are_those_of_torchvisions_imagefolder(source):
    suffixes = ("JPG", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "TIFF", "webp")
    for suffix in suffixes:
        put(source / f"train/ant/1.{suffix}")
        put(source / f"train/ant/deep/er/2.{suffix}")
    put(source / "train/ant/notes.txt")
    put(source / "elsewhere/3.jpg")
    (source / "train/9/linked").symlink_to(source / "elsewhere")  # a folder
    (source / "train/9/4.png").symlink_to(source / "elsewhere/3.jpg")  # a file
    (source / "train/Linked class").symlink_to(source / "train/Zebra")
    ours, theirs = both(source)
    assert ours == theirs and len(ours) == len(NAMES) + 2 * len(suffixes) + 2 + 1


def test_gif_and_pbm_count_too_and_hidden_files_and_folders_do_not(source, caplog):
    extra = [put(source / "train/ant/1.gif"), put(source / "train/ant/2.pbm")]
    hidden = [
        put(source / name) for name in ("train/ant/._1.jpg", "train/ant/.ipynb_checkpoints/1-checkpoint.jpg", "train/9/__MACOSX/x.jpg")
    ]
    ours, theirs = both(source)
    label = sorted(NAMES).index("ant")
    assert ours - theirs == {(str(path), label) for path in extra} and {path for path, _ in theirs - ours} == {str(path) for path in hidden}
    for name in ("train/ant/._1.jpg", "train/ant/.ipynb_checkpoints", "train/9/__MACOSX"):
        assert name in caplog.text


def test_a_hidden_folder_among_the_classes_shifts_no_label(source, caplog):
    before = folders.scan(source)
    put(source / "train/.ipynb_checkpoints/x.jpg")
    put(source / "train/__MACOSX/ant/._x.jpg")
    put(source / "train/.DS_Store", b"x")
    put(source / "val/Thumbs.db", b"x")
    assert folders.scan(source) == before
    told = "because they are hidden: 3 (train/.DS_Store, train/.ipynb_checkpoints, train/__MACOSX)"
    assert told in caplog.text and "because they are without an image's suffix: 1 (val/Thumbs.db)" in caplog.text


def test_links_in_circles_and_links_to_nowhere_are_named_and_do_not_hang(source, caplog):
    before = folders.scan(source)
    (source / "train/ant/again").symlink_to(source / "train/ant")
    (source / "train/9/all").symlink_to(source / "train")
    (source / "train/9/self").symlink_to("self")
    (source / "train/10/gone.jpg").symlink_to(source / "gone.jpg")
    (source / "train/gone class").symlink_to(source / "gone")
    os.mkfifo(source / "train/10/pipe.jpg")
    assert folders.scan(source) == before
    assert "links to a folder that they lie in: 2 (train/9/all, train/ant/again)" in caplog.text
    assert "links that lead nowhere: 3 (train/gone class, train/10/gone.jpg, train/9/self)" in caplog.text
    assert "neither a file nor a folder: 1 (train/10/pipe.jpg)" in caplog.text


def test_two_folders_that_link_to_each_other_end(source, caplog):
    (source / "train/9/to_ant").symlink_to(source / "train/ant")
    (source / "train/ant/to_9").symlink_to(source / "train/9")
    files = {str(path) for path, _ in folders.scan(source)[1]["train"] if path.parts[1] in ("9", "ant")}
    assert files == {f"train/{folder}/x[1]?.jpg" for folder in ("9", "ant", "9/to_ant", "ant/to_9")}
    assert "train/9/to_ant/to_9" in caplog.text and "train/ant/to_9/to_ant" in caplog.text


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_class_folder_is_an_error_as_for_imagefolder(source, split):
    (source / split / "ant/deep").mkdir()
    for path in (source / split / "ant").glob("*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="Found no valid file for the classes ant"):
        image_folder(source / split)
    with pytest.raises(UserError, match=rf"{split}/ant holds no images \(.jpg, .*\); add some, or remove the folder$"):
        folders.scan(source)


def test_an_unlabelled_flat_test_folder_is_left_out_with_a_warning(source, caplog):
    before = folders.scan(source)
    put(source / "test/1.jpg")
    put(source / "test/2.jpg")
    assert folders.scan(source) == before
    assert f"{source}/test has 2 images without class folders, so without labels; it is left out" in caplog.text
    put(source / "test/ant/3.jpg")
    with pytest.raises(UserError, match=r"test/1.jpg lies outside a class folder"):  # some have labels: no guess
        folders.scan(source)


def test_a_flat_test_folder_beside_train_alone_is_an_error(source):
    shutil.rmtree(source / "val")
    put(source / "test/1.jpg")
    with pytest.raises(UserError, match=r"test/1.jpg lies outside a class folder"):
        folders.scan(source)


def test_folders_that_are_no_split_are_named(source, caplog):
    put(source / "valid/ant/1.jpg")
    folders.scan(source)
    assert "in no folder of a split: 1 (valid)" in caplog.text


LATIN = os.fsdecode(b"caf\xe9")


def test_file_names_that_are_not_utf_8_are_kept_to_the_byte(source, tmp_path):
    paths = [put(source / "train/ant" / LATIN / f"{LATIN}.jpg"), put(source / f"train/ant/{LATIN}.txt", b"x")]
    data = DataConfig(name="birds", directory=str(tmp_path / "data"))
    prepare(data, source=str(source))
    train = splits.open_source(data, "train")
    named = {bytes(train.records[index]["file_name"]): index for index in range(len(train))}
    assert set(named) == {os.fsencode(path.relative_to(source)) for path in source.rglob("train/*/**/*.jpg")} and len(paths) == 2
    index = named[b"train/ant/caf\xe9/caf\xe9.jpg"]
    assert train.describe(index).startswith("train/ant/caf\ufffd/caf\ufffd.jpg (image")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (LATIN, r"class folder caf\\xe9 in .* has a name that is not UTF-8; rename it"),
        (" ant", r"class folder ' ant' in .* has a space at an end of its name, or a line break; rename it"),
        ("one\ntwo", r"class folder 'one\\ntwo' in .* has a space at an end of its name, or a line break; rename it"),
        ("one\rtwo", r"class folder 'one\\rtwo' in .*; rename it"),
    ],
)
def test_class_names_that_the_dataset_cannot_keep_are_refused_first(source, tmp_path, name, message):
    put(source / "train" / name / "1.jpg")
    with pytest.raises(UserError, match=message):
        prepare(DataConfig(name="birds", directory=str(tmp_path / "data")), source=str(source))
    assert not (tmp_path / "data").exists()


def test_folders_and_files_without_permission_are_one_sentence(run, source, tmp_path, monkeypatch):
    words = (
        "prepare",
        "--config=configs/imagenet_bnext_tiny.py",
        "--config.data.name=birds",
        f"--config.data.directory={tmp_path / 'data'}",
    )
    locked, listed, read = source / "train/ant", os.scandir, pathlib.Path.read_bytes

    def scandir(path):
        if str(path) == str(locked):  # tests run as root, who may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(run(*words, f"--source={source}"), f"{locked} cannot be read: Permission denied; give yourself access to it")
    monkeypatch.setattr(os, "scandir", listed)

    def read_bytes(path):
        if path.parent == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_bytes)
    refused(run(*words, f"--source={source}"), f"{locked}/x[1]?.jpg cannot be read: Permission denied; give yourself access to it")
    assert not (tmp_path / "data/birds/1.0.0").exists()


@pytest.mark.parametrize("directory", ["d[a]ta", "d*", "dat?"])
def test_a_data_directory_that_is_a_pattern_opens_its_own_dataset(source, tmp_path, directory):
    def data(name):
        return DataConfig(name="birds", directory=str(tmp_path / name))

    prepare(data("data"), source=str(source))  # what the patterns would match
    with pytest.raises(UserError, match=r"dataset birds is not in .*; run `bnext prepare` with this config first"):
        splits.open_source(data(directory), "train")
    put(source / "train/ant/one more.jpg")
    prepare(data(directory), source=str(source))
    assert len(splits.open_source(data(directory), "train")) == len(splits.open_source(data("data"), "train")) + 1


def test_prepare_counts_turned_photos_and_names_the_field(run, source, tmp_path, caplog):
    turned = photographs.oriented(photographs.images(40, 30)[0], 6)
    for number in range(3):
        put(source / f"train/ant/turned {number}.jpg", turned)
    put(source / "val/9/turned.png", photographs.oriented(photographs.images(40, 30)[0], 8, "png"))
    put(source / "val/9/upright.png", photographs.oriented(photographs.images(40, 30)[0], 1, "png"))
    words = (
        "prepare",
        "--config=configs/imagenet_bnext_tiny.py",
        "--config.data.name=birds",
        f"--config.data.directory={tmp_path / 'data'}",
    )
    code, result, error = run(*words, f"--source={source}")
    assert code == 0, error
    manifest = pathlib.Path(result["directory"]) / "prepared.json"
    assert json.loads(manifest.read_text())["turned"] == {"train": 3, "validation": 1}
    assert f"3 of the {len(NAMES) + 3} of train, 1 of the {len(NAMES) + 2} of validation" in caplog.text
    assert "unless you set config.data.orientation='upright'" in caplog.text
    manifest.unlink()
    caplog.clear()
    assert run(*words, "--config.data.orientation=upright")[1] == result
    assert json.loads(manifest.read_text())["turned"] == {"train": 3, "validation": 1} and "upright" not in caplog.text
    data = DataConfig(name="birds", directory=str(tmp_path / "data"), orientation="upright")
    train = splits.open_source(data, "train")
    shapes = [train.example(index)[0].shape for index in range(len(train))]
    assert sorted(shapes) == [(30, 40, 3)] * len(NAMES) + [(40, 30, 3)] * 3
    for index, shape in enumerate(shapes):
        if shape[0] == 40:
            np.testing.assert_array_equal(train.example(index)[0], np.rot90(Photo(turned).pixels(), -1))
