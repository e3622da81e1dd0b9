"""How a run and an evaluation handle images that cannot be decoded, and workers that die."""

import json
import logging
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest

from bnext_jax.config import DataConfig
from bnext_jax.data import faults, pipeline, splits
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.errors import UserError
from tests.helpers import photographs
from tests.helpers.commands import refused

LINE = "random_resized_crop(16)|flip"
TINY = photographs.TINY
GOOD, BAD = TINY[0], TINY[1][:200]


class Records:
    """Encoded images in memory. The images with indices in `broken` are truncated. Image i has label i mod 2."""

    def __init__(self, count, broken=()):
        self.encoded = [BAD if i in broken else TINY[i % len(TINY)] for i in range(count)]

    def __len__(self):
        return len(self.encoded)

    def __getitem__(self, index):
        return {"image": self.encoded[index], "label": index % 2, "file_name": f"photo_{index}.JPEG".encode()}


def source(count, broken=(), split="train"):
    return splits.Source("birds", split, Records(count, broken), ("a", "b"))


def batches(data):
    return pipeline.TrainBatches(data, LINE, batch_size=8, epochs=2, rows=range(8), seed=1)


def test_an_undecodable_image_is_replaced_by_the_next_one_that_can_be_decoded():
    found = [batches(source(24, broken=(3, 4)))[step] for step in range(3)]
    whole = batches(source(24))
    for step, batch in enumerate(found):
        epoch, indices = whole.image_indices(step)
        for row, index in enumerate(indices):
            other = 5 if index in (3, 4) else index
            expected = Transform(LINE)(source(24).example(other)[0], random.Random((1 << 96) + (epoch << 64) + index))
            np.testing.assert_array_equal(batch["image"][row], expected)
            assert batch["label"][row] == other % 2
            assert batch["undecodable"][row] == (index if index in (3, 4) else -1)
    assert sorted(i for batch in found for i in batch["undecodable"] if i >= 0) == [3, 4]


def test_the_first_image_replaces_the_last_and_an_undecodable_dataset_stops():
    image, label, index = batches(source(9, broken=(8,))).example(8, 0)
    assert image.shape == (16, 16, 3) and (label, index) == (0, 8)
    told = r"100 images in a row of birds, from photo_\d+.JPEG \(image \d+ of train: .*prepare the dataset again"
    with pytest.raises(UserError, match=told):
        batches(source(120, broken=range(120)))[0]


def test_replaced_images_are_named_once_and_end_the_run_past_the_allowed_share(caplog):
    watch = faults.Faults(source(100, broken=(7, 9, 11)), allowed=0.02, images=100)
    with caplog.at_level(logging.WARNING):
        watch.look(np.array([-1, 7, -1]))
        watch.look(np.array([9, 7]))
        watch.check(2)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["photo_7.JPEG", "photo_9.JPEG"]
    with pytest.raises(UserError, match=r"3 of the 100 images of an epoch .* \(photo_7.JPEG .*undecodable_share 0.02 allows"):
        watch.check(3)
    with pytest.raises(UserError, match=r"3 of the 100 images of an epoch cannot be decoded \(other processes name them\)"):
        faults.Faults(source(100), allowed=0.02, images=100).check(3)


def test_evaluation_masks_and_names_images_that_it_cannot_decode():
    found = pipeline.EvalBatches(source(10, broken=(0, 6)), "resize(20)|center_crop(16)", batch_size=8, rows=range(8))
    assert [index for part in (found[0], found[1]) for index in part["undecodable"] if index >= 0] == [0, 6]
    np.testing.assert_array_equal(found[0]["mask"], [i not in (0, 6) for i in range(8)])
    np.testing.assert_array_equal(found[1]["mask"], [True, True] + [False] * 6)
    assert (found[0]["image"][0] == 0).all() and found[0]["image"][1].any()


@pytest.fixture
def birds(monkeypatch):
    """birds(split=broken indices) makes every run open the dataset "birds", with these broken images."""

    def install(**broken):
        def open_source(data, split):
            return source({"train": 128, "test": 24}[split], broken.get(split, ()), split)

        monkeypatch.setattr(splits, "open_source", open_source)

    return install


def words(tmp_path, *more):
    form = "--config=configs/imagenet_bnext_tiny.py:smoke"
    splits = ["--config.data.train_split=train", "--config.data.eval_split=test"]
    return ["train", form, f"--workdir={tmp_path / 'run'}", "--config.batch_size=32", "--config.batch_norm_group=32", *splits, *more]


def test_a_run_continues_past_a_broken_image_and_records_how_many_it_replaced(run, birds, tmp_path, caplog):
    birds(train=(5,))
    code, result, error = run(*words(tmp_path, "--config.data.undecodable_share=0.01"))
    assert code == 0, error
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["undecodable"] for line in lines] == [1, 1] and result["examples"] == 24
    assert caplog.text.count("photo_5.JPEG (image 5 of train: ") == 1


def test_a_run_stops_past_the_share_and_evaluation_refuses_missing_images(run, birds, tmp_path):
    birds(train=(5, 6))
    refused(
        run(*words(tmp_path, "--config.data.undecodable_share=0.01")), "2 of the 128 images of an epoch cannot be decoded", "photo_6.JPEG"
    )
    birds(test=(3, 17))
    outcome = run(*words(tmp_path / "second"))
    refused(outcome, "2 of the 24 images of birds's test split cannot be decoded (photo_3.JPEG", "photo_17.JPEG", "no accuracy is given")
    assert (tmp_path / "second/run/checkpoints/4").is_dir()  # the evaluation failed, but the checkpoint of the epoch exists
    refused(run("evaluate", f"--checkpoint={tmp_path / 'second/run'}"), "2 of the 24 images")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_worker_raises_user_error_and_ends_the_other_workers(digits, workers):
    data = splits.open_source(DataConfig(directory=digits), "train")
    stream = pipeline.iterate(pipeline.TrainBatches(data, "resize(16)", batch_size=8, epochs=500, rows=range(8), seed=0), workers=workers)
    next(stream)
    (child, *_) = [child for child in multiprocessing.active_children() if "grain" in child.name]
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"a worker that decodes images died \(.*exit code -9\), perhaps because memory ran out; lower"):
        for _ in stream:
            pass
    assert not [child for child in multiprocessing.active_children() if "grain" in child.name]


class Deadly(Records):
    """Records that kill the process that reads image 77, except the process that created the object."""

    def __init__(self):
        super().__init__(128)
        self.maker = os.getpid()

    def __getitem__(self, index):
        if index == 77 and os.getpid() != self.maker:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_run_whose_worker_dies_stops_with_complete_checkpoints(run, tmp_path, monkeypatch):
    opened = {"train": splits.Source("birds", "train", Deadly(), ("a", "b")), "test": source(24, split="test")}
    monkeypatch.setattr(splits, "open_source", lambda data, split: opened[split])
    monkeypatch.setattr(pipeline.TrainBatches, "image_indices", lambda self, step: (step // 4, [32 * (step % 4) + r for r in range(32)]))
    refused(run(*words(tmp_path, "--config.data.workers=1", "--config.checkpoint.every_steps=1")), "a worker that decodes images died")
    assert {entry.name for entry in (tmp_path / "run/checkpoints").iterdir()} <= {"1", "2"}


def test_images_stay_encoded_if_the_decoded_split_does_not_fit_into_memory():
    assert isinstance(source(24).example(0)[0], np.ndarray)  # 24 decoded images of 40x30 pixels fit into memory
    big = splits.Source("birds", "train", [{"image": photographs.jpegs()[0], "label": 0}] * 1000, ("a",))
    assert not isinstance(big.example(0)[0], np.ndarray) and not big.decoded
