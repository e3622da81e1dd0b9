"""Random access to global batches: the same images, order and augmentation for any number of processes, workers and restarts.

The split has N images. An epoch has n = N // batch steps; step s belongs to epoch e = s // n. Row r of the global batch of step s is
image order_e[(s mod n) * batch + r], where order_e is a permutation that depends only on (seed, e). The last N mod batch images of each
order_e are left out. Augmentation depends only on (seed, e, image). A process reads only the rows that its devices hold.

"undecodable" [R] in a batch reports the images that cannot be decoded: the image's index, or -1 if the image was decoded. Training
replaces such an image by another one (see data.faults); evaluation masks it.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import grain
import numpy as np
from absl import flags

from bnext_jax.bounds import COUNT
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.decode.photo import Undecodable
from bnext_jax.data.splits import Source
from bnext_jax.errors import Unreachable, UserError, one_line
from bnext_jax.io import buckets

SHUFFLE_ROUNDS = 4  # rounds of the block cipher that makes the permutation
PREFETCHED_BATCHES = 4  # smallest size of the prefetch buffer
BATCHES_ON_DEVICE = 1  # batches sent to the devices ahead of the one in use
REPLACEMENTS_TRIED = 100  # images tried for one example, its own included


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Returns N // batch_size for a split of N images. Raises UserError if the result is 0. `batch_size` is global."""
    if len(source) < batch_size:
        raise UserError(
            f"config.batch_size {batch_size} is larger than the {len(source)} images of {source.name}'s {source.split} split;"
            " choose a smaller one"
        )
    return len(source) // batch_size


def augmentation_rng(seed: int, epoch: int, index: int) -> random.Random:
    """Returns the random numbers of one image in one epoch. random() gives the same numbers in every version of Python."""
    return random.Random((seed << 96) | (epoch << 64) | index)


class TrainBatches:
    """The training batches of a run, by step: this process's rows of each global batch.

    Element s is {"image": uint8 [R,H,W,3], "label": int32 [R], "undecodable": int32 [R]} for the R rows of this process.

        >>> batches = TrainBatches(source, "random_resized_crop(224)|flip", batch_size=512, epochs=2, rows=range(512), seed=0)
        >>> batches[0]["image"].shape
        (512, 224, 224, 3)

    Args:
      source: the split to train on.
      transform: one line of data.augment.transforms.
      batch_size: size of the global batch.
      epochs: length of the run.
      rows: indices of this process's rows in each global batch.
      seed: seed of the order and of the augmentation.
    Raises:
      UserError: the transform is unknown, or the batch is larger than the split.
    """

    def __init__(self, source: Source, transform: str, *, batch_size: int, epochs: int, rows: Sequence[int], seed: int) -> None:
        self.source, self.transform = source, Transform(transform)
        self.batch_size, self.rows, self.seed = batch_size, rows, seed
        self.steps_per_epoch = steps_per_epoch(source, batch_size)
        self.steps = epochs * self.steps_per_epoch
        if self.steps > COUNT:
            raise UserError(f"config.epochs {epochs} makes {self.steps} steps; a run can count {COUNT}")

    def __len__(self) -> int:
        return self.steps

    def image_indices(self, step: int) -> tuple[int, list[int]]:
        """Returns (epoch, indices of the images in the split) for this process's rows of one step."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        epoch_seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        positions = (step_in_epoch * self.batch_size + row for row in self.rows)
        last = len(self.source) - 1
        return epoch, [grain.experimental.index_shuffle(p, last, epoch_seed, SHUFFLE_ROUNDS) for p in positions]

    def example(self, index: int, epoch: int) -> tuple[np.ndarray, int, int]:
        """Reads and augments an image. If it cannot be decoded, the next image that can be decoded replaces it.

        Args:
          index: position of the image in the split.
          epoch: epoch that the augmentation is for.
        Returns:
          (image uint8 [H,W,3], label, -1); or (replacement, its label, index) if the image was replaced.
        Raises:
          UserError: none of REPLACEMENTS_TRIED images, from `index` on, can be decoded.
        """
        for other in range(index, index + REPLACEMENTS_TRIED):
            with contextlib.suppress(Undecodable):
                image, label = self.source.example(other % len(self.source))
                return self.transform(image, augmentation_rng(self.seed, epoch, index)), label, -1 if other == index else index
        raise UserError(
            f"{REPLACEMENTS_TRIED} images in a row of {self.source.name}, from {self.source.describe(index)} on, cannot be decoded;"
            " prepare the dataset again"
        )

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, indices = self.image_indices(step)
        images, labels, undecodable = zip(*(self.example(index, epoch) for index in indices), strict=True)
        return {"image": _stack(images), "label": np.array(labels, np.int32), "undecodable": np.array(undecodable, np.int32)}


class EvalBatches:
    """The evaluation batches, by step: every image once, in order, padded to whole batches.

    Elements are those of TrainBatches, with two more keys for the R rows of this process:

        mask   bool [R], False for padding and for images that cannot be decoded
        file   bytes [R], the names of the images' files; b"" if unknown

    Args:
      source: the split to evaluate on.
      transform: one line of data.augment.transforms.
      batch_size: size of the global batch.
      rows: indices of this process's rows in each global batch.
    Raises:
      UserError: the transform is unknown.
    """

    def __init__(self, source: Source, transform: str, *, batch_size: int, rows: Sequence[int]) -> None:
        self.source, self.transform = source, Transform(transform)
        self.batch_size, self.rows = batch_size, rows

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
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

    def blank(self) -> np.ndarray:
        """Returns zeros in the shape of the first image that can be decoded. Raises UserError if no image can be decoded."""
        for index in range(len(self.source)):
            with contextlib.suppress(Undecodable):
                return np.zeros_like(self.transform(self.source.example(index)[0], random.Random(0)))
        raise UserError(f"no image of {self.source.name}'s {self.source.split} split can be decoded; prepare the dataset again")


def _stack(images: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UserError(f"the transform makes images of different sizes ({sorted(shapes)[:3]}); end it with a crop of one size")
    return np.stack(images)


def iterate(
    batches: TrainBatches | EvalBatches, *, start_step: int = 0, stop_step: int | None = None, threads: int = 4, workers: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches in order, and reads ahead with threads and worker processes.

    Args:
      batches: the batches to read.
      start_step: first step to read. Earlier steps are not read.
      stop_step: first step not to read; None: reads all.
      threads: decoding threads per process (with workers: per worker). A thread decodes one batch at a time.
      workers: decoding processes; 0: only threads.
    Raises:
      UserError: a worker died. Errors of a batch pass through.
      Unreachable: the dataset's bucket does not answer.
    """
    dataset = grain.MapDataset.source(batches)[start_step:stop_step]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, PREFETCHED_BATCHES))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's global flags; our commands do not parse those
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_begin_worker)
    elements, stuck = iter(dataset), False
    try:
        yield from buckets.watched(batches.source.folder, elements)
    except Unreachable:
        stuck = True
        raise
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            f"a worker that decodes images died ({one_line(error).split('. ')[0]}), perhaps because memory ran out; lower"
            " config.data.workers or config.data.threads and start again: the run resumes from its last checkpoint"
        ) from error
    finally:
        if not stuck:
            elements.close()  # ends the workers and frees their shared memory


def _begin_worker(index: int, count: int) -> None:
    """Prepares a worker process: it ignores SIGTERM and SIGINT, and exits when its parent ends (also when the parent is killed)."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    parent = multiprocessing.parent_process()

    def follow() -> NoReturn:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ahead(batches: Iterable[Any], put: Callable[[Any], Any]) -> Iterator[Any]:
    """Yields put(batch) for each batch. Calls put one batch early, so the transfer to the devices overlaps the previous step.

    Args:
      batches: batches on the host.
      put: sends a batch to the devices.
    """
    waiting: collections.deque[Any]
    waiting, batches = collections.deque(), iter(batches)
    while True:
        waiting.extend(map(put, itertools.islice(batches, BATCHES_ON_DEVICE + 1 - len(waiting))))
        if not waiting:
            return
        yield waiting.popleft()


def image_shape(source: Source, transform: str) -> tuple[int, ...]:
    """Returns (height, width, 3), the shape that `transform` gives to the split's first image that can be decoded."""
    return EvalBatches(source, transform, batch_size=1, rows=[0]).blank().shape
