"""Global batches by index: the same images, order and augmentation for any number of processes, workers and restarts.

Row r of the global batch of step s is image order_e[(s mod n) * batch + r] of the dataset, where n = N // batch steps
make an epoch, e = s // n, and order_e is a permutation that depends on (seed, e) alone; the last N mod batch images of
each order are left out. Augmentation depends on (seed, e, image). A process reads just the rows that its devices hold.
"""

import grain
import numpy as np
from absl import flags

from bnext_jax.data.transforms import Transform
from bnext_jax.errors import UserError

SHUFFLE_ROUNDS = 4  # of the block cipher behind the permutation
PREFETCHED_BATCHES = 4


def steps_per_epoch(source, batch_size):
    """N // batch. Raises UserError where that is 0."""
    if len(source) < batch_size:
        raise UserError(
            f"config.batch_size {batch_size} is larger than the {len(source)} images of {source.name}'s {source.split} split;"
            " choose a smaller one"
        )
    return len(source) // batch_size


class TrainBatches:
    """Random access to this process's rows of each step: element s is {"image": uint8 [R,H,W,3], "label": int32 [R]}.

    Args:
      source: data.sources.Source. transform: one line of data.transforms. batch_size: global. epochs: length of the run.
      rows: this process's rows of each global batch. seed: of order and augmentation.
    Raises:
      UserError: an unknown transform, a batch larger than the split.
    """

    def __init__(self, source, transform, *, batch_size, epochs, rows, seed):
        self.source, self.transform = source, Transform(transform)
        self.batch_size, self.rows, self.seed = batch_size, rows, seed
        self.steps_per_epoch = steps_per_epoch(source, batch_size)
        self.steps = epochs * self.steps_per_epoch

    def __len__(self):
        return self.steps

    def image_indices(self, step):
        """(epoch, indices in the dataset) of this process's rows of one step."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        epoch_seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        positions = (step_in_epoch * self.batch_size + row for row in self.rows)
        last = len(self.source) - 1
        return epoch, [grain.experimental.index_shuffle(p, last, epoch_seed, SHUFFLE_ROUNDS) for p in positions]

    def __getitem__(self, step):
        epoch, indices = self.image_indices(step)
        examples = [self.source.example(index) for index in indices]
        images = [
            self.transform(image, np.random.default_rng([self.seed, epoch, index]))
            for index, (image, _) in zip(indices, examples, strict=True)
        ]
        return {"image": _stack(images), "label": np.array([label for _, label in examples], np.int32)}


class EvalBatches:
    """Every image once, in order, padded to whole batches; "mask" [R] is False on padding. Otherwise as TrainBatches."""

    def __init__(self, source, transform, *, batch_size, rows):
        self.source, self.transform = source, Transform(transform)
        self.batch_size, self.rows = batch_size, rows

    def __len__(self):
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, step):
        indices = [step * self.batch_size + row for row in self.rows]
        examples = [self.source.example(index if index < len(self.source) else 0) for index in indices]
        return {
            "image": _stack([self.transform(image, np.random.default_rng(0)) for image, _ in examples]),
            "label": np.array([label for _, label in examples], np.int32),
            "mask": np.array([index < len(self.source) for index in indices]),
        }


def _stack(images):
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UserError(f"the transform leaves images of different sizes ({sorted(shapes)[:3]}); let it end in a crop of one size")
    return np.stack(images)


def iterate(batches, *, start_step=0, threads=4, workers=0):
    """An iterator over the elements of TrainBatches or EvalBatches, read ahead.

    Args:
      start_step: the first step to read; those before are skipped without being read.
      threads: that decode, each a batch, per process (or per worker). workers: processes that decode; 0 = threads alone.
    """
    dataset = grain.MapDataset.source(batches)[start_step:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, PREFETCHED_BATCHES))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's global flags, which our commands do not use
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


def image_shape(source, transform):
    """(height, width, 3) of the images that `transform` makes, from the split's first image."""
    return EvalBatches(source, transform, batch_size=1, rows=[0])[0]["image"].shape[1:]
