"""Global batches by index: the same images, order and augmentation for any number of processes, workers and restarts.

Row r of the global batch of step s is image order_e[(s mod n) * batch + r] of the dataset, where n = N // batch steps
make an epoch, e = s // n, and order_e is a permutation that depends on (seed, e) alone; the last N mod batch images of
each order are left out. Augmentation depends on (seed, e, image). A process reads just the rows that its devices hold.

An image that cannot be decoded is told in its batch: "undecodable" [R] holds its index there, and -1 for all others. Training takes
another image in its place (see data.faults), evaluation masks it.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import threading

import grain
import numpy as np
from absl import flags

from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.decode.photo import Undecodable
from bnext_jax.errors import UserError, one_line

SHUFFLE_ROUNDS = 4  # of the block cipher behind the permutation
PREFETCHED_BATCHES = 4
BATCHES_ON_DEVICE = 1  # sent ahead of the one in use
REPLACEMENTS_TRIED = 100


def steps_per_epoch(source, batch_size):
    """N // batch. Raises UserError where that is 0."""
    if len(source) < batch_size:
        raise UserError(
            f"config.batch_size {batch_size} is larger than the {len(source)} images of {source.name}'s {source.split} split;"
            " choose a smaller one"
        )
    return len(source) // batch_size


def augmentation_rng(seed, epoch, index):
    """The random.Random of one image in one epoch; its random() gives the same numbers in every version of Python."""
    return random.Random((seed << 96) | (epoch << 64) | index)


class TrainBatches:
    """Random access to this process's rows of each step: element s is {"image": uint8 [R,H,W,3], "label": int32 [R], "undecodable"}.

    Args:
      source: data.splits.Source. transform: one line of data.augment.transforms. batch_size: global. epochs: length of the run.
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

    def example(self, index, epoch):
        """(image uint8 [H,W,3], label, -1 or index): an image augmented, or, where it cannot be decoded, the next one that can.

        Raises UserError where none of the next REPLACEMENTS_TRIED can.
        """
        for other in range(index, index + REPLACEMENTS_TRIED):
            with contextlib.suppress(Undecodable):
                image, label = self.source.example(other % len(self.source))
                return self.transform(image, augmentation_rng(self.seed, epoch, index)), label, -1 if other == index else index
        raise UserError(
            f"{REPLACEMENTS_TRIED} images in a row of {self.source.name}, from {self.source.describe(index)} on, cannot be decoded;"
            " prepare the dataset again"
        )

    def __getitem__(self, step):
        epoch, indices = self.image_indices(step)
        images, labels, undecodable = zip(*(self.example(index, epoch) for index in indices), strict=True)
        return {"image": _stack(images), "label": np.array(labels, np.int32), "undecodable": np.array(undecodable, np.int32)}


class EvalBatches:
    """Every image once, in order, padded to whole batches; "mask" [R] is False on padding and on what cannot be decoded.

    "file" [R] holds the names of the images' files, b"" where they are not known. Otherwise as TrainBatches.
    """

    def __init__(self, source, transform, *, batch_size, rows):
        self.source, self.transform = source, Transform(transform)
        self.batch_size, self.rows = batch_size, rows

    def __len__(self):
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, step):
        indices = [step * self.batch_size + row for row in self.rows]
        images, labels, undecodable = {}, np.zeros(len(indices), np.int32), np.full(len(indices), -1, np.int32)
        files = [b""] * len(indices)
        for row, index in enumerate(indices):
            if index >= len(self.source):
                continue
            try:
                image, labels[row], files[row] = self.source.named_example(index)
                images[row] = self.transform(image, random.Random(index))
            except Undecodable:
                undecodable[row] = index
        filling = np.zeros_like(next(iter(images.values()))) if images else self.blank()
        return {
            "image": _stack([images.get(row, filling) for row in range(len(indices))]),
            "label": labels,
            "mask": np.array([row in images for row in range(len(indices))]),
            "undecodable": undecodable,
            "file": np.array(files, np.bytes_),
        }

    def blank(self):
        """Zeros of an image's shape, from the first image that can be decoded. Raises UserError where there is none."""
        for index in range(len(self.source)):
            with contextlib.suppress(Undecodable):
                return np.zeros_like(self.transform(self.source.example(index)[0], random.Random(0)))
        raise UserError(f"no image of {self.source.name}'s {self.source.split} split can be decoded; prepare the dataset again")


def _stack(images):
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UserError(f"the transform leaves images of different sizes ({sorted(shapes)[:3]}); let it end in a crop of one size")
    return np.stack(images)


def iterate(batches, *, start_step=0, stop_step=None, threads=4, workers=0):
    """Yields the elements of TrainBatches or EvalBatches, read ahead.

    Args:
      start_step: the first step to read; those before are skipped without being read. stop_step: the first not to read; None = all.
      threads: that decode, each a batch, per process (or per worker). workers: processes that decode; 0 = threads alone.
    Raises:
      UserError: a worker died, or whatever an element raises.
    """
    dataset = grain.MapDataset.source(batches)[start_step:stop_step]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, PREFETCHED_BATCHES))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's global flags, which our commands do not use
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_begin_worker)
    elements = iter(dataset)
    try:
        yield from elements
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            f"a worker that decodes images died ({one_line(error).split('. ')[0]}), perhaps for want of memory; lower"
            " config.data.workers or config.data.threads and start again: the run goes on from its last checkpoint"
        ) from error
    finally:
        elements.close()  # workers end, and what they left in shared memory is freed


def _begin_worker(index, count):
    """A decoding process leaves stopping to the one it works for, and ends with it, also where that is killed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ahead(batches, put):
    """Yields put(batch), one batch further than asked for, so that sending it to the devices overlaps the step before."""
    waiting, batches = collections.deque(), iter(batches)
    while True:
        waiting.extend(map(put, itertools.islice(batches, BATCHES_ON_DEVICE + 1 - len(waiting))))
        if not waiting:
            return
        yield waiting.popleft()


def image_shape(source, transform):
    """(height, width, 3) of the images that `transform` makes, from the split's first image that can be decoded."""
    return EvalBatches(source, transform, batch_size=1, rows=[0]).blank().shape
