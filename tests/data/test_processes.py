"""Any number of real processes and workers reads the same global batches, and evaluates every image once."""

import numpy as np
import pytest

from bnext_jax.config import DataConfig
from bnext_jax.data import pipeline, splits
from tests.helpers.batches_process import BATCH, LINE, STEPS
from tests.helpers.launcher import free_port


@pytest.mark.parametrize(("count", "workers"), [(1, 2), (2, 0), (4, 1)])
def test_real_processes_read_the_same_batches_and_evaluate_every_image_once(launcher, digits, tmp_path, count, workers):
    port = free_port()
    outputs = [tmp_path / f"{process}.npz" for process in range(count)]
    processes = [
        launcher.start((process, count, port, workers, digits, output), output, module="tests.helpers.batches_process")
        for process, output in enumerate(outputs)
    ]
    assert [launcher.end(process) for process in processes] == [0] * count
    parts = [dict(np.load(output)) for output in outputs]
    assert sorted(row for part in parts for row in part["rows"]) == list(range(BATCH))

    data = DataConfig(directory=digits)
    train = pipeline.TrainBatches(splits.open_source(data, "train"), LINE, batch_size=BATCH, epochs=3, rows=range(BATCH), seed=7)
    for position, step in enumerate(range(*STEPS)):
        expected = train[step]
        for part in parts:
            np.testing.assert_array_equal(part["train_image"][position], expected["image"][part["rows"]])
            np.testing.assert_array_equal(part["train_label"][position], expected["label"][part["rows"]])

    test = splits.open_source(data, "test")
    labels = np.full((4, BATCH), -1)  # 360 images in batches of 96
    for part in parts:
        labels[:, part["rows"]] = np.where(part["eval_mask"], part["eval_label"], -1)
        assert part["total"] == 360
    assert [label for label in labels.ravel() if label >= 0] == [test.example(i)[1] for i in range(360)]
    assert (labels.ravel()[360:] == -1).all()
