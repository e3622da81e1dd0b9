"""Global batches by index: the same images, order and augmentation for any number of processes, workers and restarts.

Row r of the global batch of step s is image order_e[(s mod n) * batch + r] of the dataset, where n = N // batch steps
make an epoch, e = s // n, and order_e is a permutation that depends on (seed, e) alone; the last N mod batch images of
each order are left out. Augmentation depends on (seed, e, image). A process reads just the rows that its devices hold.
"""

import grain
import numpy as np

from bnext_jax.data.transforms import Transform
from bnext_jax.errors import UserError

SHUFFLE_ROUNDS = 4  # of the block cipher behind the permutation
PREFETCHED_BATCHES = 4


def steps_per_epoch(source, batch_size):
    """N // batch. Raises UserError where that is 0."""
    if len(source) < batch_size:
        raise UserError(
            f"config.batch_size {batch_size} is larger than the {len(source)} images of {source.name}'s {source.split} split; choose a smaller one"
        )
    return len(source) // batch_size


class TrainRows:
    """Random access to this process's rows, step after step: element i is row rows[i mod R] of step i // R."""

    def __init__(self, source, transform, *, batch_size, epochs, rows, seed):
        self.source, self.transform = source, Transform(transform)
        self.batch_size, self.rows, self.seed = batch_size, rows, seed
        self.steps_per_epoch = steps_per_epoch(source, batch_size)
        self.steps = epochs * self.steps_per_epoch

    def __len__(self):
        return self.steps * len(self.rows)

    def image_index(self, step, row):
        """(epoch, index in the dataset) of one row of one step's global batch."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        epoch_seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        position = step_in_epoch * self.batch_size + row
        return epoch, grain.experimental.index_shuffle(position, len(self.source) - 1, epoch_seed, SHUFFLE_ROUNDS)

    def __getitem__(self, i):
        step, local = divmod(i, len(self.rows))
        epoch, index = self.image_index(step, self.rows[local])
        image, label = self.source.example(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        return {"image": self.transform(image, rng), "label": np.int32(label)}


class EvalRows:
    """Every image once, in order, padded to whole batches; "mask" is False on padding."""

    def __init__(self, source, transform, *, batch_size, rows):
        self.source, self.transform = source, Transform(transform)
        self.batch_size, self.rows = batch_size, rows

    def __len__(self):
        return -(-len(self.source) // self.batch_size) * len(self.rows)

    def __getitem__(self, i):
        batch, local = divmod(i, len(self.rows))
        index = batch * self.batch_size + self.rows[local]
        image, label = self.source.example(index if index < len(self.source) else 0)
        image = self.transform(image, np.random.default_rng(0))
        return {"image": image, "label": np.int32(label), "mask": np.bool_(index < len(self.source))}


def batches(rows, *, start_step=0, threads=4, workers=0):
    """An iterator over {"image": uint8 [R,H,W,3], "label": int32 [R], ...}, R = this process's rows of one step.

    Args:
      rows: TrainRows or EvalRows.
      start_step: the first step to read; those before are skipped without being read.
      threads: that decode, per process (or per worker). workers: processes that decode; 0 = threads alone.
    """
    dataset = grain.MapDataset.source(rows).batch(len(rows.rows))[start_step:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCHED_BATCHES)
    dataset = dataset.to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


def image_shape(source, transform):
    """(height, width, 3) of the images that `transform` makes, from the split's first image."""
    rows = EvalRows(source, transform, batch_size=1, rows=[0])
    return rows[0]["image"].shape
