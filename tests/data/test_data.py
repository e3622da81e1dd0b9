"""The data pipeline: the order of the images, their augmentation, and an evaluation that covers every image once."""

import functools
import operator
import pickle
import random

import numpy as np
import pytest

from bnext_jax.config import DataConfig
from bnext_jax.data import pipeline, splits
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.errors import UserError
from bnext_jax.training.mesh import make_shardings

LINE = "resize(16)|pad_crop(2)|flip"


@pytest.fixture(scope="module")
def train(digits):
    return splits.open_source(DataConfig(directory=digits), "train")


@pytest.fixture(scope="module")
def test_split(digits):
    return splits.open_source(DataConfig(directory=digits), "test")


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
    assert epochs[0] != epochs[1] != epochs[2] and set(epochs[0]) != set(epochs[1])  # each epoch leaves out other images
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


def test_a_source_is_sent_to_a_worker_without_its_decoded_images(train):
    image, label = train.example(7)
    copy = pickle.loads(pickle.dumps(train))
    assert 7 in train.decoded and not copy.decoded and len(copy) == len(train)
    np.testing.assert_array_equal(copy.example(7)[0], image)
    assert copy.example(7)[1] == label


def test_augmentation_depends_only_on_the_seed_the_epoch_and_the_image(train):
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
