"""Evaluation of any network, student or teacher: every image once, padding masked, the count asserted."""

import jax
import jax.numpy as jnp

from bnext_jax import distill
from bnext_jax.data import pipeline
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
      AssertionError: the images counted are not the split's.
    """
    batches = pipeline.EvalBatches(source, data.eval_transform, batch_size=batch_size, rows=shardings.local_rows(batch_size))
    read = pipeline.iterate(batches, threads=data.threads, workers=data.workers)
    sums = [eval_step(variables, shardings.put_batch(batch)) for batch in read]
    total = {name: sum(float(part[name]) for part in sums) for name in ("loss", "top1", "top5", "count")}
    assert total["count"] == len(source), f"counted {total['count']} of {len(source)} images"
    count = len(source)
    return {
        "top1": 100 * total["top1"] / count,
        "top5": 100 * total["top5"] / count,
        "loss": total["loss"] / count,
        "examples": count,
    }
