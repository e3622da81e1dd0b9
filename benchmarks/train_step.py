"""Measures BNext-T's training step and evaluation at 224 pixels, and the Python time that a step of BNext-L costs the host.

    python benchmarks/train_step.py            # with the convolution that CPUs get
    python benchmarks/train_step.py --both     # also with the plain convolution, side by side in one run

float32, all cores. BNext-T's times are the best of a few repetitions; the Python time is a median of 20. Memory is the process's peak.
"""

import os
import pathlib
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from bnext_jax.host.process import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()  # as main.py does

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record, steps
from bnext_jax.config import OptimizerConfig
from bnext_jax.models.table import abstract_model
from bnext_jax.nn import lowering
from bnext_jax.nn.network import split
from bnext_jax.training import evaluator, mesh, optimizers
from bnext_jax.training.step import initial_state

BATCH, PIXELS = 8, 224


def tiny(shardings):
    """Measures BNext-T with batch 8: seconds to compile, of a training step and of an evaluation step, and peak memory."""
    step, arguments, model = steps.built(shardings, "bnext_tiny", BATCH, PIXELS)
    start = time.perf_counter()
    compiled = step.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    one = steps.Stepping(compiled, arguments)
    one()
    step_seconds = steps.best_seconds(one)
    evaluation, *_ = split(model, training=False)
    eval_step = evaluator.make_eval_step(evaluation, shardings, mean=steps.MEAN, std=steps.STD, dtype=jnp.dtype("float32"))
    variables = {**one.state["params"], **one.state["batch_stats"]}
    _, batch, flag, _ = arguments
    masked = {"image": batch["image"], "label": batch["label"], **shardings.put_batch({"mask": np.ones(BATCH, bool)})}
    jax.block_until_ready(eval_step(variables, masked, flag))
    return {
        "compile_seconds": round(compile_seconds, 1),
        "train_step_seconds": round(step_seconds, 3),
        "eval_forward_seconds": round(steps.best_seconds(lambda: eval_step(variables, masked, flag)), 3),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def python_of_large(shardings):
    """Measures the Python time of a step with as many arrays as BNext-L's state, each of one element: a jitted, donated update."""
    network, params, batch_stats = split(abstract_model("bnext_large"), training=True)
    small = {part: {path: jnp.zeros((1,)) for path in flat} for part, flat in (("params", params), ("batch_stats", batch_stats))}
    adamw = optimizers.make_optimizer(OptimizerConfig(), network.decay_groups)
    current = shardings.put(initial_state(network, small["params"], small["batch_stats"], adamw))
    update = jax.jit(
        lambda tree: jax.tree.map(lambda x: x + 1, tree),
        donate_argnums=0,
        in_shardings=shardings.replicated,
        out_shardings=shardings.replicated,
    )
    current = update(current)
    times = []
    for _ in range(20):
        jax.block_until_ready(current)
        start = time.perf_counter()
        current = update(current)
        times.append(time.perf_counter() - start)
    return {"leaves": len(jax.tree.leaves(current)), "python_milliseconds": round(1000 * float(np.median(times)), 1)}


def main():
    """Runs all measurements and writes results/train_step.json."""
    shardings = mesh.make_shardings()
    values = {"bnext_tiny": tiny(shardings)}
    if "--both" in sys.argv:
        lowering.choose = lambda cpu, default, *operands: default(*operands)
        values["bnext_tiny_plain_convolution"] = tiny(shardings)
    values["bnext_large_host"] = python_of_large(shardings)
    record.write(
        "train_step",
        {
            "settings": {"batch": BATCH, "pixels": PIXELS, "precision": "float32", "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "")},
            **values,
        },
    )


if __name__ == "__main__":
    main()
