"""Evaluation of a network, student or teacher, on a whole split.

Every image counts once. Padding is masked, and the number of images is checked at the end.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnext_jax.config import DataConfig
from bnext_jax.data import faults, pipeline
from bnext_jax.data.splits import Source
from bnext_jax.distill import losses
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress
from bnext_jax.io.files import write_whole
from bnext_jax.nn.network import Network
from bnext_jax.nn.normalise import normalise
from bnext_jax.training import cluster, preemption
from bnext_jax.training.mesh import Shardings

TOP_K = 5
SUMS = ("loss", "top1", "top5", "count")


def make_eval_step(
    network: Network, shardings: Shardings, *, mean: tuple[float, ...], std: tuple[float, ...], dtype: jnp.dtype
) -> jax.stages.Wrapped:
    """Makes the jitted evaluation step of a network.

    Args:
      network: an evaluation view.
      shardings: the device mesh.
      mean: mean of the pixels in [0, 1], per channel.
      std: standard deviation of the pixels in [0, 1], per channel.
      dtype: type of the activations.
    Returns:
      eval_step(variables, batch, flag) -> dict, where batch = {"image": [N,H,W,3], "label": [N], "mask": bool [N]}. The dict holds:
        loss: sum of the cross-entropy over the unmasked images, in nats.
        top1: number of unmasked images whose most probable class is the label.
        top5: number of unmasked images whose label is among the five most probable classes.
        count: number of unmasked images.
        stop: sum of the flag, see training.preemption.
        classes: [N, min(5, number of classes)], the most probable classes of each image.
        probability: [N], the softmax of the most probable class.
        label: [N], the labels of the batch, unchanged.
    """

    def eval_step(variables, batch, flag):
        with jax.default_matmul_precision("highest"):  # by default a TPU computes float32 products in bfloat16 passes
            logits, _ = network(variables, normalise(batch["image"], mean, std, dtype))
        labels, mask = batch["label"], batch["mask"]
        highest, best = jax.lax.top_k(logits, min(TOP_K, logits.shape[-1]))
        hits = best == labels[:, None]
        values = {"loss": losses.cross_entropy(logits, labels), "top1": hits[:, 0], "top5": hits.any(-1), "count": mask}
        sums = {name: jnp.where(mask, value, 0).sum() for name, value in values.items()}
        probability = jnp.exp(highest[:, 0] - jax.nn.logsumexp(logits, axis=-1))
        return {**sums, "stop": flag.sum(), "classes": best, "probability": probability, "label": labels}

    whole = shardings.replicated
    return jax.jit(eval_step, in_shardings=(whole, shardings.batch, shardings.batch), out_shardings=whole)


def evaluate(
    eval_step: Callable[..., Mapping[str, jax.Array]],
    variables: Mapping[str, jax.Array],
    source: Source,
    shardings: Shardings,
    data: DataConfig,
    batch_size: int,
    *,
    stop: preemption.Preemption | None = None,
    predictions: "Predictions | None" = None,
) -> dict[str, float]:
    """Evaluates a network on a whole split, with all devices of all processes.

    Args:
      eval_step: from make_eval_step.
      variables: {path: array} on the mesh.
      source: the split.
      shardings: the device mesh.
      data: configuration of the dataset, for the transform, threads and workers.
      batch_size: global batch size.
      stop: interrupts the evaluation when this process or another receives a stop signal; None = nothing interrupts it.
      predictions: collects the prediction for every image; None = predictions are dropped.
    Returns:
      {"top1" (percent), "top5" (percent), "loss" (mean in nats), "examples" (number of images)}.
    Raises:
      UserError: some images cannot be decoded. An accuracy over fewer images would not be the accuracy of the split.
      preemption.Stopped: a process received a stop signal.
    """
    batches = pipeline.EvalBatches(source, data.eval_transform, batch_size=batch_size, rows=shardings.local_rows(batch_size))
    read = pipeline.iterate(batches, threads=data.threads, workers=data.workers)
    undecodable: set[int]
    undecodable, total = set(), dict.fromkeys(SUMS, 0.0)

    def put(batch):
        undecodable.update(int(index) for index in batch["undecodable"] if index >= 0)
        if predictions is not None:
            predictions.note_files(batches.rows, batch["file"])
        return shardings.put_batch({name: batch[name] for name in ("image", "label", "mask")})

    def blank():
        """Returns a fully masked batch. This process feeds it after its data fail, for steps that the other processes have begun."""
        rows = len(batches.rows)
        image = np.zeros((rows, *batches.blank().shape), np.uint8)
        return shardings.put_batch({"image": image, "label": np.zeros(rows, np.int32), "mask": np.zeros(rows, bool)})

    def take(found):
        """Adds the sums of one batch to the total. Called one batch late, so that the devices already compute the next batch."""
        if found is None:
            return
        if predictions is not None:
            predictions.add(found)
        for name in total:
            total[name] += float(found[name])
        feed.check(found["stop"])
        if found["stop"]:
            raise preemption.Stopped

    feed, before = preemption.Feed(pipeline.ahead(read, put), blank, preemption.Flags(shardings), stop), None
    with Progress("evaluate", len(batches), unit="batch") as progress:
        for _ in range(len(batches)):
            found = eval_step(variables, *next(feed))
            take(before)
            before = found
            progress.step()
        take(before)

    count = len(source)
    if total["count"] != count:
        told = faults.named(source, undecodable) if undecodable else "other processes name them"
        raise UserError(
            f"{count - int(total['count'])} of the {count} images of {source.name}'s {source.split} split cannot be decoded ({told});"
            " no accuracy is given over fewer images, so prepare the dataset again"
        )
    return {
        "top1": 100 * total["top1"] / count,
        "top5": 100 * total["top5"] / count,
        "loss": total["loss"] / count,
        "examples": count,
    }


class Predictions:
    """Collects the prediction for each image of a split and writes them as CSV, one row per image, in the order of the dataset.

    The columns are:
      index: index of the image in the split.
      file: file name of the image, empty if the dataset does not know it.
      label: name of the true class.
      prediction: name of the most probable class.
      probability: softmax of the prediction, six decimals.
      top5: names of the five most probable classes, joined by ";".

    Args:
      source: the split.
      batch_size: global batch size of the evaluation.
    """

    def __init__(self, source: Source, batch_size: int) -> None:
        self._classes: list[np.ndarray]  # one array of class indices per image, most probable first
        self._probability: list[float]
        self._labels: list[int]
        self._files: dict[int, str]  # {index in the split: file name}, only of this process's rows
        self._source, self._batch_size = source, batch_size
        self._classes, self._probability, self._labels = [], [], []
        self._files, self._batches = {}, 0

    def note_files(self, rows: Iterable[int], files: Iterable[bytes]) -> None:
        """Takes the file names of this process's rows of the next batch.

        Args:
          rows: R row indices in the global batch.
          files: R file names; b"" = unknown.
        """
        start = self._batches * self._batch_size
        self._files |= {start + row: name.decode(errors="replace") for row, name in zip(rows, files, strict=True) if name}
        self._batches += 1

    def add(self, found: Mapping[str, Any]) -> None:
        """Takes the result of one evaluation step."""
        self._classes.extend(np.asarray(found["classes"]))
        self._probability.extend(np.asarray(found["probability"]))
        self._labels.extend(np.asarray(found["label"]))

    def write(self, path: os.PathLike | str) -> None:
        """Writes the CSV file. All processes must call this; the first one writes, atomically.

        Args:
          path: file to write or overwrite.
        Raises:
          UserError: the file cannot be written.
        """
        told = [json.loads(text) for text in cluster.texts(json.dumps(self._files))]  # each process knows only the names of its own rows
        if not cluster.is_first():
            return
        files = {int(index): name for part in told for index, name in part.items()}
        file, names = io.StringIO(), self._source.class_names
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("index", "file", "label", "prediction", "probability", "top5"))
        for index in range(len(self._source)):
            best = [names[number] for number in self._classes[index]]
            known = (index, files.get(index, ""), names[self._labels[index]])
            table.writerow((*known, best[0], f"{self._probability[index]:.6f}", ";".join(best)))
        write_whole(path, file.getvalue(), "file of predictions")
