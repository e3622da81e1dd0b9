"""`prepare` turns class folders and ImageNet's tar files into datasets, once. An incomplete dataset does not open."""

import hashlib
import io
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bnext_jax.config import DataConfig
from bnext_jax.data import prepare as module
from bnext_jax.data import splits, store
from bnext_jax.data.decode.photo import Photo
from bnext_jax.data.prepare import prepare
from bnext_jax.errors import UserError
from bnext_jax.io import buckets, paths
from tests.helpers import photographs
from tests.helpers.commands import ROOT, refused

CONFIG = "--config=configs/imagenet_bnext_tiny.py"
TINY = photographs.TINY


def class_folders(root, counts=(("train", 4), ("val", 2)), classes=("n02", "n01", "n10")):
    """Writes class folders below `root`. Image i of class k is photograph (i + k) mod 8."""
    for split, count in counts:
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{name}_{i}.JPEG").write_bytes(TINY[(i + k) % len(TINY)])
    return root


@pytest.fixture
def folders(tmp_path):
    return class_folders(tmp_path / "images")


def words(tmp_path, *more):
    return ["prepare", CONFIG, "--config.data.name=birds", f"--config.data.directory={tmp_path / 'data'}", *more]


def test_class_folders_become_a_dataset_with_the_files_own_bytes_and_sorted_classes(run, folders, tmp_path):
    code, result, error = run(*words(tmp_path, f"--source={folders}"))
    assert code == 0, error
    assert (result["splits"], result["classes"]) == ({"train": 12, "validation": 6}, 3)
    data = DataConfig(name="birds", directory=str(tmp_path / "data"))
    for split, folder, count in (("train", "train", 12), ("validation", "val", 6)):
        source = splits.open_source(data, split)
        assert len(source) == count and source.class_names == ("n01", "n02", "n10")
        found = {}
        for record in (source.records[i] for i in range(count)):
            name = record["file_name"].decode()
            assert record["image"] == (folders / name).read_bytes()
            assert name.split("/")[:2] == [folder, source.class_names[record["label"]]]
            found[name] = True
        assert len(found) == count


def test_prepared_json_holds_counts_class_names_and_checksums(run, folders, tmp_path):
    _, result, _ = run(*words(tmp_path, f"--source={folders}"))
    where = pathlib.Path(result["directory"])
    manifest = json.loads((where / "prepared.json").read_text())
    assert manifest["splits"] == {"train": 12, "validation": 6} and manifest["classes"] == ["n01", "n02", "n10"]
    written = {path.name: path.read_bytes() for path in where.iterdir() if "array_record" in path.name}
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in written.items()
    }
    assert result["bytes"] == sum(map(len, written.values()))


def test_prepare_writes_once_and_restores_a_lost_manifest(run, folders, tmp_path):
    _, first, _ = run(*words(tmp_path, f"--source={folders}"))
    shutil.rmtree(folders)
    (pathlib.Path(first["directory"]) / "prepared.json").unlink()
    assert run(*words(tmp_path))[1] == first


def test_a_dataset_with_a_truncated_file_does_not_open(run, folders, tmp_path):
    _, result, _ = run(*words(tmp_path, f"--source={folders}"))
    (shard,) = pathlib.Path(result["directory"]).glob("*train.array_record*")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"has \d+ bytes, prepared.json beside it says \d+; remove .* and run `prepare` again"):
        splits.open_source(DataConfig(name="birds", directory=str(tmp_path / "data")), "train")


def test_a_killed_preparation_leaves_no_dataset_and_the_next_one_cleans_up(run, tmp_path):
    folders = class_folders(tmp_path / "images", (("train", 4000), ("val", 1)))
    command = [sys.executable, "main.py", *words(tmp_path, f"--source={folders}")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    home, deadline = tmp_path / "data/birds", time.monotonic() + 60
    while not list(home.glob("incomplete.*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and list(home.glob("incomplete.*")) and not (home / "1.0.0").exists()
    with pytest.raises(UserError, match="dataset birds is not in"):
        splits.open_source(DataConfig(name="birds", directory=str(tmp_path / "data")), "train")
    code, result, _ = run(*words(tmp_path, f"--source={folders}"))
    assert code == 0 and result["splits"] == {"train": 12_000, "validation": 3} and not list(home.glob("incomplete.*"))


def test_prepare_warns_of_files_that_are_not_images(run, folders, tmp_path, caplog):
    (folders / "train/n01/notes.txt").write_text("x")
    (folders / "val/n02/broken.jpg").write_bytes(b"no pixels")
    assert run(*words(tmp_path, f"--source={folders}"))[0] == 0
    assert f"left out of {folders}, because they are without an image's suffix: 1 (train/n01/notes.txt)" in caplog.text
    assert "1 files of validation cannot be read as images: broken.jpg (its bytes are not in a known image format" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: shutil.rmtree(root / "val"), "needs the folders train, and val or test, each with one folder a class; it has train"),
        (
            lambda root: (root / "val/n77").mkdir() or (root / "val/n77/a.png").write_bytes(b"x"),
            "has classes that train does not have: n77",
        ),
        (lambda root: (root / "val/loose.JPEG").write_bytes(b"x"), "lies outside a class folder; sort the images of val"),
        (lambda root: shutil.copytree(root / "val", root / "validation"), "has both val and validation"),
        (lambda root: [path.unlink() for path in root.glob("val/*/*")], "holds no images"),
    ],
)
def test_unusable_source_folders_are_refused(run, folders, tmp_path, change, message):
    change(folders)
    refused(run(*words(tmp_path, f"--source={folders}")), message)
    assert not list((tmp_path / "data").rglob("*.array_record*"))


def test_other_wrong_input_is_refused(run, folders, tmp_path):
    refused(run(*words(tmp_path, "--source=/nowhere")), "--source /nowhere is no folder")
    refused(run(*words(tmp_path, f"--source={folders}", "--manual_dir=x")), "--source or --manual_dir, not both")
    refused(run(*words(tmp_path, f"--source={folders}", "--config.data.name=My-Birds")), "'My-Birds' cannot name a dataset")
    refused(run("prepare", CONFIG, f"--config.data.directory={tmp_path}"), "name their folder with --manual_dir=DIR, or give class folders")


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


@pytest.fixture
def tars(tmp_path, monkeypatch):
    """A folder with small versions of ImageNet's two tar files: three training images of two synsets, and two validation images.

    One training image has the name of ImageNet's PNG file, and one has the name of one of its CMYK files.
    """
    folder = tmp_path / "tars"
    folder.mkdir()
    cmyk = photographs.encoded(photographs.images()[0].resize((40, 30)).convert("CMYK"), quality=100)
    png = photographs.encoded(photographs.images()[1].resize((40, 30)), "png")
    synsets = [
        ("n01739381.tar", tar(tmp_path / "a.tar", [("n01739381_1309.JPEG", cmyk), ("n01739381_1.JPEG", TINY[0])])),
        ("n02105855.tar", tar(tmp_path / "b.tar", [("n02105855_2933.JPEG", png)])),
    ]
    tar(folder / "ILSVRC2012_img_train.tar", synsets)
    tar(folder / "ILSVRC2012_img_val.tar", [(f"ILSVRC2012_val_0000000{i}.JPEG", TINY[i]) for i in (1, 2)])
    monkeypatch.setattr(module, "IMAGENET_FILES", {path.name: path.stat().st_size for path in folder.iterdir()})
    monkeypatch.setattr(module, "IMAGENET_COUNTS", {"train": 3, "validation": 2})
    return folder


def imagenet(tmp_path, tars):
    return ["prepare", CONFIG, f"--config.data.directory={tmp_path / 'data'}", f"--manual_dir={tars}"]


def test_imagenets_tar_files_become_the_dataset_that_the_config_names(run, tars, tmp_path):
    code, result, error = run(*imagenet(tmp_path, tars))
    assert code == 0, error
    assert (result["splits"], result["classes"]) == ({"train": 3, "validation": 2}, 1000)
    source = splits.open_source(DataConfig(name="imagenet2012", directory=str(tmp_path / "data")), "train")
    labels = {source.records[i]["file_name"].decode(): source.records[i]["label"] for i in range(3)}
    assert (
        source.class_names[labels["n01739381_1309.JPEG"]] == "n01739381"
        and source.class_names[labels["n02105855_2933.JPEG"]] == "n02105855"
    )
    names = list(labels)
    dog = Photo(source.records[names.index("n02105855_2933.JPEG")]["image"]).pixels()
    assert photographs.levels(dog, photographs.images()[1].resize((40, 30))) < 12  # TFDS converts the PNG to a JPEG
    face = Photo(source.records[names.index("n01739381_1309.JPEG")]["image"]).pixels()
    assert face.shape == (30, 40, 3)
    validation = splits.open_source(DataConfig(name="imagenet2012", directory=str(tmp_path / "data")), "validation")
    assert validation.class_names[validation.records[0]["label"]].startswith("n")


def test_missing_or_truncated_tar_files_are_refused_before_preparation(run, tars, tmp_path):
    val = tars / "ILSVRC2012_img_val.tar"
    val.write_bytes(val.read_bytes()[:-10])
    refused(run(*imagenet(tmp_path, tars)), f"{val} has {val.stat().st_size} bytes instead of {val.stat().st_size + 10}")
    val.unlink()
    refused(run(*imagenet(tmp_path, tars)), f"{val} is missing; get it from image-net.org")


def test_tar_files_with_too_few_images_leave_no_dataset(run, tars, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGENET_COUNTS", {"train": 3, "validation": 50_000})
    refused(run(*imagenet(tmp_path, tars)), "held {'train': 3, 'validation': 2}; they are incomplete, nothing was kept")
    assert not list((tmp_path / "data").rglob("*.array_record*"))


def test_a_bucket_that_does_not_answer_is_refused_within_seconds(monkeypatch):
    assert buckets.SILENCE == 30
    monkeypatch.setattr(paths.Path, "exists", lambda self: time.sleep(60))
    monkeypatch.setattr(buckets, "client", lambda place: None)
    monkeypatch.setattr(buckets, "SILENCE", 0.2)
    monkeypatch.setattr(buckets, "PROBE", 0.1)
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"config.data.directory gs://nobody/data cannot be reached \(no answer within 0.2 s\); check its name"
    ):
        splits.open_source(DataConfig(name="imagenet2012", directory="gs://nobody/data"), "train")
    assert time.monotonic() - began < 10


def test_a_dataset_in_another_format_is_refused_but_not_called_unknown(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    (info,) = (tmp_path / "data").rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"digits was prepared in .* in another format than array_record; name another config"):
        splits.open_source(DataConfig(directory=str(tmp_path / "data")), "train")


class FakeCifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # TFDS has registered its own cifar10
    """Eight images of one value each, with the name, the features and the version of TFDS's cifar10."""

    name, VERSION = "cifar10", tfds.builder_cls("cifar10").VERSION

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"id": str(i), "image": np.full((32, 32, 3), i, np.uint8), "label": i}


def test_a_dataset_of_tfds_is_opened_by_its_name(tmp_path):
    data = DataConfig(name="cifar10", directory=str(tmp_path))
    with pytest.raises(UserError, match=r"dataset cifar10 is not in .*bnext prepare"):
        splits.open_source(data, "train")
    FakeCifar10(data_dir=str(tmp_path), file_format=store.FILE_FORMAT).download_and_prepare()
    source = splits.open_source(data, "train")
    assert len(source) == 6 and len(source.class_names) == 10
    image, label = source.example(3)
    assert image.shape == (32, 32, 3) and (image == label).all()
    with pytest.raises(UserError, match=r"no split 'dev'; it has .*test"):
        splits.open_source(data, "dev")


def test_an_unknown_dataset_is_refused(tmp_path):
    data = DataConfig(name="imagenet_9000", directory=str(tmp_path))
    with pytest.raises(UserError, match=r"dataset imagenet_9000 is not in .*bnext prepare"):
        splits.open_source(data, "train")
    with pytest.raises(UserError, match=r"'imagenet_9000' is no dataset that TFDS knows .*--source=DIR"):
        prepare(data)


def test_without_a_directory_the_folder_is_that_of_tfds(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(store.folder(DataConfig())) == str(tmp_path / "tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "mine"))
    assert str(store.folder(DataConfig())) == str(tmp_path / "mine")
    assert str(store.folder(DataConfig(directory="/data"))) == "/data"


def test_a_user_without_a_home_folder_is_told_how_to_name_a_folder(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(store.cache, "home", lambda: None)
    with pytest.raises(UserError, match="this user has no home folder for the datasets; name a folder in"):
        store.folder(DataConfig())
