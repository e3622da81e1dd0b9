"""One of several real processes that read the batches of one run: main(ID, COUNT, PORT, WORKERS, DATASETS, OUTPUT).

The process writes its rows of a few training batches from the middle of the run, and its rows of all evaluation batches. It also writes
the number of images that all processes evaluate. The run has four devices, and each process has an equal share of them.
"""

import jax
import numpy as np

DEVICES, BATCH, STEPS = 4, 96, (20, 23)
LINE = "random_resized_crop(24)|flip|randaugment(rand-m7-mstd0.5-inc1)"


def main(process, count, port, workers, datasets, output):
    """All arguments are text, because launcher.start passes text."""
    process, count, workers = int(process), int(count), int(workers)
    jax.config.update("jax_num_cpu_devices", DEVICES // count)
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=process)
    from bnext_jax.config import DataConfig
    from bnext_jax.data import pipeline, splits
    from bnext_jax.training.mesh import make_shardings

    shardings = make_shardings()
    assert jax.device_count() == DEVICES
    rows = shardings.local_rows(BATCH)
    data = DataConfig(directory=datasets)
    train = pipeline.TrainBatches(splits.open_source(data, "train"), LINE, batch_size=BATCH, epochs=3, rows=rows, seed=7)
    read = list(pipeline.iterate(train, start_step=STEPS[0], stop_step=STEPS[1], workers=workers))
    evaluation = pipeline.EvalBatches(splits.open_source(data, "test"), "resize(24)", batch_size=BATCH, rows=rows)
    counted = jax.jit(lambda mask: mask.sum(), out_shardings=shardings.replicated)
    parts = list(pipeline.iterate(evaluation, workers=workers))
    total = sum(int(counted(shardings.put_batch({"mask": part["mask"]})["mask"])) for part in parts)
    arrays = {f"train_{name}": np.stack([batch[name] for batch in read]) for name in ("image", "label")}
    arrays |= {f"eval_{name}": np.stack([part[name] for part in parts]) for name in ("label", "mask")}
    np.savez(output, rows=rows, total=total, **arrays)
