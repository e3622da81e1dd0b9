"""The pipeline: exact order, exact augmentation, every image counted."""

import functools
import io
import operator
import random
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bnext_jax.config import DataConfig
from bnext_jax.data import pipeline, sources
from bnext_jax.data.photo import Photo
from bnext_jax.data.prepare import prepare
from bnext_jax.data.transforms import Transform
from bnext_jax.errors import UserError
from bnext_jax.train.mesh import make_shardings

LINE = "resize(16)|pad_crop(2)|flip"


@pytest.fixture(scope="module")
def train(digits):
    return sources.open_source(DataConfig(directory=digits), "train")


@pytest.fixture(scope="module")
def test_split(digits):
    return sources.open_source(DataConfig(directory=digits), "test")


def batches(source, rows=range(100), seed=3):
    return pipeline.TrainBatches(source, LINE, batch_size=100, epochs=3, rows=list(rows), seed=seed)


def test_digits_are_split_into_1437_and_360_scans_of_ten_classes(train, test_split):
    assert (len(train), len(test_split)) == (1437, 360)
    assert train.class_names == tuple("0123456789")
    from sklearn.datasets import load_digits

    scans = load_digits()
    seen = {}
    for source in (train, test_split):
        for i in range(len(source)):
            image, label = source.example(i)
            seen.setdefault((image[:, :, 0].tobytes(), label), 0)
            seen[image[:, :, 0].tobytes(), label] += 1
    expected = {(np.round(x * 255 / 16).astype(np.uint8).tobytes(), int(y)) for x, y in zip(scans.images, scans.target, strict=True)}
    assert seen.keys() == expected and sum(seen.values()) == 1797


def test_no_image_comes_twice_in_an_epoch_and_each_epoch_has_a_new_order(train):
    all_batches = batches(train)
    assert (all_batches.steps_per_epoch, len(all_batches)) == (14, 42)
    epochs = [functools.reduce(operator.iadd, (all_batches.image_indices(14 * e + s)[1] for s in range(14)), []) for e in range(3)]
    for order in epochs:
        assert len(order) == len(set(order)) == 1400 and min(order) >= 0 and max(order) < 1437
    assert epochs[0] != epochs[1] != epochs[2] and set(epochs[0]) != set(epochs[1])  # other images are left out
    assert batches(train, seed=4).image_indices(0)[1] != epochs[0][:100]


@pytest.mark.parametrize("processes", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_processes(train, processes):
    whole = batches(train)[17]
    share = 100 // processes
    parts = [batches(train, range(p * share, (p + 1) * share))[17] for p in range(processes)]
    for name in ("image", "label"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_threads_and_worker_processes_give_the_same_stream_from_any_step(train):
    expected = [batches(train)[step] for step in (20, 21, 22)]
    for options in ({"threads": 3}, {"threads": 1, "workers": 2}):
        stream = pipeline.iterate(batches(train), start_step=20, **options)
        for element in expected:
            found = next(stream)
            np.testing.assert_array_equal(found["image"], element["image"])
            np.testing.assert_array_equal(found["label"], element["label"])
        del stream


def test_augmentation_depends_on_the_seed_the_epoch_and_the_image_alone(train):
    all_batches = batches(train)
    epoch, indices = all_batches.image_indices(5)
    rng = random.Random((3 << 96) + (epoch << 64) + indices[7])
    np.testing.assert_array_equal(all_batches[5]["image"][7], Transform(LINE)(train.example(indices[7])[0], rng))


@pytest.mark.parametrize(("batch", "count"), [(100, 4), (360, 1), (64, 6)])
def test_evaluation_covers_every_image_once_and_masks_the_padding(test_split, batch, count):
    rows = list(range(batch))
    found = list(pipeline.iterate(pipeline.EvalBatches(test_split, "resize(16)", batch_size=batch, rows=rows)))
    assert len(found) == count and all(len(part["label"]) == batch for part in found)
    mask = np.concatenate([part["mask"] for part in found])
    assert mask.sum() == 360
    labels = np.concatenate([part["label"] for part in found])[mask]
    np.testing.assert_array_equal(labels, [test_split.example(i)[1] for i in range(360)])


def test_a_batch_larger_than_the_split_is_refused(test_split):
    with pytest.raises(UserError, match="batch_size 500 is larger than the 360 images of digits's test split"):
        pipeline.steps_per_epoch(test_split, 500)


def test_one_process_reads_all_rows_in_order():
    assert make_shardings().local_rows(6) == [0, 1, 2, 3, 4, 5]


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_resize_makes_the_shorter_side_the_size_asked_for():
    assert Transform("resize(16)")(picture(20, 31), None).shape == (16, 24, 3)  # int(16 * 31 / 20) = 24
    assert Transform("resize(16)")(picture(31, 20), None).shape == (24, 16, 3)


def test_center_crop_rounds_half_offsets_to_even():
    image = picture(7, 9)
    np.testing.assert_array_equal(Transform("center_crop(4)")(image, None), image[2:6, 2:6])  # offsets 1.5 -> 2, 2.5 -> 2


def test_pad_crop_reaches_every_offset_and_moves_zeros_in():
    image, rng = picture(4, 4) // 2 + 1, random.Random(0)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[i : i + 4, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    assert {Transform("pad_crop(1)")(image, rng).tobytes() for _ in range(200)} == windows


def test_flip_mirrors_half_of_the_images():
    image, rng = picture(2, 3), random.Random(0)
    found = [Transform("flip")(image, rng) for _ in range(1000)]
    flipped = sum(np.array_equal(x, image[:, ::-1]) for x in found)
    assert flipped + sum(np.array_equal(x, image) for x in found) == 1000
    assert abs(flipped - 500) < 3.3 * 15.8  # binomial: three standard deviations, and a bit


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("blur(3)", "'blur\\(3\\)' in 'blur\\(3\\)' is unknown"),
        ("flip|resize", "'resize' .* takes one whole number"),
        ("flip(2)", "takes no argument"),
        ("resize(1 6)", "takes one whole number"),
        ("randaugment(rand-m7)", "randaugment\\(rand-m7\\) is unknown"),
    ],
)
def test_a_transform_that_cannot_be_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        Transform(line)


def test_a_dataset_of_another_format_is_told_and_not_called_unknown(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    (info,) = (tmp_path / "data").rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"digits was prepared in .* in another format than array_record; name another config"):
        sources.open_source(DataConfig(directory=str(tmp_path / "data")), "train")


def test_grey_images_are_repeated_on_three_channels():
    buffer = io.BytesIO()
    Image.fromarray(picture(5, 4)[:, :, 0]).save(buffer, "png")
    image = Photo(buffer.getvalue()).pixels()
    assert image.shape == (5, 4, 3) and (image == image[:, :, :1]).all()


class FakeCifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # TFDS has a cifar10 of its own
    """Eight noise images under TFDS's own name, features and version."""

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
    with pytest.raises(UserError, match=r"dataset cifar10 is not in .*main\.py prepare"):
        sources.open_source(data, "train")
    FakeCifar10(data_dir=str(tmp_path), file_format=sources.FILE_FORMAT).download_and_prepare()
    source = sources.open_source(data, "train")
    assert len(source) == 6 and len(source.class_names) == 10
    image, label = source.example(3)
    assert image.shape == (32, 32, 3) and (image == label).all()
    with pytest.raises(UserError, match=r"no split 'dev'; it has .*test"):
        sources.open_source(data, "dev")


def test_an_unknown_dataset_is_refused(tmp_path):
    data = DataConfig(name="imagenet_9000", directory=str(tmp_path))
    with pytest.raises(UserError, match=r"dataset imagenet_9000 is not in .*main\.py prepare"):
        sources.open_source(data, "train")
    with pytest.raises(UserError, match=r"'imagenet_9000' is no dataset that TFDS knows .*--source=DIR"):
        prepare(data)
