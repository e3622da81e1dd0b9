"""Evaluation of any network, student or teacher: every image once, padding masked, the count asserted."""

import csv
import io
import json

import jax
import jax.numpy as jnp
import numpy as np

from bnext_jax.data import faults, pipeline
from bnext_jax.distill import losses
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress
from bnext_jax.io.files import write_whole
from bnext_jax.nn.normalise import normalise
from bnext_jax.training import cluster, preemption

TOP_K = 5
SUMS = ("loss", "top1", "top5", "count")


def make_eval_step(network, shardings, *, mean, std, dtype):
    """A jitted function (variables, batch, flag) -> {"loss", "top1", "top5", "count", "stop", "classes", "probability", "label"}.

    The first five are sums over the unmasked images and the flags (see training.preemption). "classes" [N,5] and "probability" [N] are the
    likeliest classes of each image and the softmax of the first; "label" [N] comes back as it went in.

    Args:
      network: nn.network.Network, an evaluation view. shardings: training.mesh.Shardings.
      mean, std: of pixels in [0, 1]. dtype: of the activations.
    """

    def eval_step(variables, batch, flag):
        with jax.default_matmul_precision("highest"):  # float32 on a TPU would otherwise run in bfloat16 passes
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


def evaluate(eval_step, variables, source, shardings, data, batch_size, *, stop=None, predictions=None):
    """Top-1, top-5 (percent), loss (nats) and the number of images of a whole split, over all devices of all processes.

    Args:
      eval_step: from make_eval_step. variables: {path: array} on the mesh. source: data.splits.Source.
      shardings: training.mesh.Shardings. data: DataConfig. batch_size: global.
      stop: training.preemption.Preemption that interrupts the evaluation. predictions: a Predictions, which is given every image's.
    Raises:
      UserError: images that cannot be decoded: a figure over fewer images would not be the split's.
      preemption.Stopped: a process was told to stop.
    """
    batches = pipeline.EvalBatches(source, data.eval_transform, batch_size=batch_size, rows=shardings.local_rows(batch_size))
    read = pipeline.iterate(batches, threads=data.threads, workers=data.workers)
    undecodable, total = set(), dict.fromkeys(SUMS, 0.0)

    def put(batch):
        undecodable.update(int(index) for index in batch["undecodable"] if index >= 0)
        if predictions is not None:
            predictions.note_files(batches.rows, batch["file"])
        return shardings.put_batch({name: batch[name] for name in ("image", "label", "mask")})

    def blank():
        """A batch that counts nothing, for the steps that other processes have begun when this one's data fail."""
        rows = len(batches.rows)
        image = np.zeros((rows, *batches.blank().shape), np.uint8)
        return shardings.put_batch({"image": image, "label": np.zeros(rows, np.int32), "mask": np.zeros(rows, bool)})

    def take(found):
        """Reads the sums of one batch, when the next one is under way."""
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
            " no accuracy is given over fewer images: prepare the dataset again"
        )
    return {
        "top1": 100 * total["top1"] / count,
        "top5": 100 * total["top5"] / count,
        "loss": total["loss"] / count,
        "examples": count,
    }


class Predictions:
    """What a network says of each image of a split, to be written as CSV with one row an image, in the dataset's order.

    Columns: index in the split, file (where the dataset knows it), label, prediction (classes' names), probability of the prediction
    (softmax), top5 (names of the likeliest classes, joined by ";").

    source: data.splits.Source.
    batch_size: global, of the evaluation.
    """

    def __init__(self, source, batch_size):
        self._source, self._batch_size = source, batch_size
        self._classes, self._probability, self._labels = [], [], []
        self._files, self._batches = {}, 0

    def note_files(self, rows, files):
        """Takes the names of the files of this process's rows of the next batch. rows: in the global batch. files: bytes [R]."""
        start = self._batches * self._batch_size
        self._files |= {start + row: name.decode(errors="replace") for row, name in zip(rows, files, strict=True) if name}
        self._batches += 1

    def add(self, found):
        """Takes the result of one eval_step."""
        self._classes.extend(np.asarray(found["classes"]))
        self._probability.extend(np.asarray(found["probability"]))
        self._labels.extend(np.asarray(found["label"]))

    def write(self, path):
        """Writes the file whole, in the first process; all processes must call it. Raises UserError where it cannot be written."""
        told = [json.loads(text) for text in cluster.texts(json.dumps(self._files))]  # each knows the names of its rows
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
