"""Evaluation of any network, student or teacher: every image once, padding masked, the count asserted."""

import jax
import jax.numpy as jnp

from bnext_jax import distill
from bnext_jax.data import faults, pipeline
from bnext_jax.errors import UserError
from bnext_jax.train.step import normalise

TOP_K = 5


def make_eval_step(network, shardings, *, mean, std, dtype):
    """A jitted function (variables, batch) -> {"loss", "top1", "top5", "count"}: sums over the unmasked images.

    Args:
      network: train.state.Network, an evaluation view. shardings: train.mesh.Shardings.
      mean, std: of pixels in [0, 1]. dtype: of the activations.
    """

    def eval_step(variables, batch):
        with jax.default_matmul_precision("highest"):  # float32 on a TPU would otherwise run in bfloat16 passes
            logits, _ = network(variables, normalise(batch["image"], mean, std, dtype))
        labels, mask = batch["label"], batch["mask"]
        _, best = jax.lax.top_k(logits, min(TOP_K, logits.shape[-1]))
        hits = best == labels[:, None]
        values = {"loss": distill.cross_entropy(logits, labels), "top1": hits[:, 0], "top5": hits.any(-1), "count": mask}
        return {name: jnp.where(mask, value, 0).sum() for name, value in values.items()}

    whole = shardings.replicated
    return jax.jit(eval_step, in_shardings=(whole, shardings.batch), out_shardings=whole)


def evaluate(eval_step, variables, source, shardings, data, batch_size):
    """Top-1, top-5 (percent), loss (nats) and the number of images of a whole split.

    Args:
      eval_step: from make_eval_step. variables: {path: array} on the mesh. source: data.sources.Source.
      shardings: train.mesh.Shardings. data: DataConfig. batch_size: global.
    Raises:
      UserError: images that cannot be decoded: a figure over fewer images would not be the split's.
    """
    batches = pipeline.EvalBatches(source, data.eval_transform, batch_size=batch_size, rows=shardings.local_rows(batch_size))
    read = pipeline.iterate(batches, threads=data.threads, workers=data.workers)
    undecodable = set()

    def put(batch):
        undecodable.update(int(index) for index in batch.pop("undecodable") if index >= 0)
        return shardings.put_batch(batch)

    sums = [eval_step(variables, batch) for batch in pipeline.ahead(read, put)]
    total = {name: sum(float(part[name]) for part in sums) for name in ("loss", "top1", "top5", "count")}
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
