"""One of several real processes that together train a few steps of each CASE, and then evaluate PyTorch files.

main(PROCESS, COUNT, PORT, DEVICES, SEED, DATASETS, TEACHER, FILES, OUTPUT, CASE...)

training.run.Run does the steps, as in the training loop. Process 0 writes the whole state, the metrics of the last step and the
evaluation to OUTPUT/CASE.npz. It writes the results of `evaluate` for FILES (joined by ",") to OUTPUT/evaluations.json.
"""

import json
import pathlib

import jax
import numpy as np

BATCH = 32
# case -> precision, batch-norm group, share of the devices on the axis "shard", accumulate, steps
CASES = {
    "whole": ("float64", 2, 1, 1, 6),
    "sharded": ("float64", 2, 2, 1, 6),
    "synchronised": ("float64", None, 1, 1, 6),
    "accumulated": ("float64", 2, 2, 2, 6),
    "single": ("float32", 2, 1, 1, 1),
    "single_sharded": ("float32", 2, 2, 1, 1),
}


def settings(case, seed, datasets, teacher):
    """Returns the Config of a case. Its mesh fits any number of devices."""
    from bnext_jax import config as c

    precision, group, shard, accumulate, _ = CASES[case]
    return c.Config(
        model=c.ModelConfig(name="bnext", widths=(8, 8, 16)),
        data=c.DataConfig(
            directory=datasets, train_split="train[:128]", eval_split="test[:50]", train_transform="resize(16)|pad_crop(2)|flip",
            eval_transform="resize(16)", threads=1,
        ),
        distill=c.DistillConfig(main=teacher),
        optimizer=c.OptimizerConfig(warmup_epochs=0),
        epochs=2, batch_size=BATCH, eval_batch_size=16, batch_norm_group=group, precision=precision, seed=seed, accumulate=accumulate,
        mesh=f"shard={shard}", tensorboard=False,
    ).check()  # fmt: skip


def train(config, steps, evaluates=False):
    """Trains some steps. Returns {name: array}: the state, the metrics of the last step and, if asked for, the evaluation.

    Also "held": the bytes of the state on one device. And "all-reduces": their number in the compiled step, and the bytes of the largest.
    """
    from bnext_jax.io.digest import on_host
    from bnext_jax.tpu.collectives import collectives
    from bnext_jax.training import preemption
    from bnext_jax.training.run import Run

    run = Run(config, pathlib.Path("unused"))
    data = run.read(0, steps)
    for step in range(steps):
        if step % run.steps_per_epoch == 0:
            run.prepare_epoch(step // run.steps_per_epoch)
        run.state, metrics = run.step(run.state, next(data), run.flag(preemption.GO), run.schedule.variables)
    leaves = jax.tree_util.tree_leaves_with_path(run.state)
    return {
        **{jax.tree_util.keystr(path): on_host(leaf) for path, leaf in leaves},
        **{f"metric {name}": np.asarray(value) for name, value in metrics.items()},
        **({f"evaluation {name}": value for name, value in run.evaluate().items()} if evaluates else {}),
        "all-reduces": [collectives(run.step.as_text()).get("all-reduce", {}).get(key, 0) for key in ("count", "largest")],
        "held": sum(leaf.addressable_shards[0].data.nbytes for _, leaf in leaves),
    }


def evaluations(files, datasets, teacher):
    """Returns the result of `evaluate` for each PyTorch file."""
    from bnext_jax.commands.evaluate import evaluate

    return [evaluate(file, settings("single", 0, datasets, teacher)) for file in files]


def main(process, count, port, devices, seed, datasets, teacher, files, output, *cases):
    """All arguments are text, because launcher.start passes text."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if int(count) > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=int(count), process_id=int(process))
    for case in cases:
        jax.config.update("jax_enable_x64", CASES[case][0] == "float64")
        found = train(settings(case, int(seed), datasets, teacher), CASES[case][-1], evaluates=case == "whole")
        if jax.process_index() == 0:
            np.savez(pathlib.Path(output) / case, **found)
    jax.config.update("jax_enable_x64", False)
    found = evaluations(filter(None, files.split(",")), datasets, teacher)
    if jax.process_index() == 0:
        (pathlib.Path(output) / "evaluations.json").write_text(json.dumps(found))
