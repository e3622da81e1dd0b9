"""Why annealing costs accuracy in a short run: the latent weights of benchmarks/comparison.py's runs, epoch by epoch.

It reads the logs in the work directories, and writes results/comparison_latent.json and docs/measured_latent.png.
"""

from benchmarks import record
from benchmarks.comparison_runs import ENTRIES
from benchmarks.comparison_table import DOCS
from bnext_jax.io.logs import read_metrics
from bnext_jax.plot import figures

RUNS = ("bnext", "early", "forgetful", "hard")
SHOWN = {
    "grad_norm/latent": "norm of the gradient",
    "update_norm/latent": "norm of the step",
    "flip_ratio": "share of signs that flip",
}


def logged(folder):
    """The logs of a run: {name: [value after each epoch]}, for the names of SHOWN.

    Args:
      folder: the work directory.
    """
    lines = [line for line in read_metrics(folder) if "flip_ratio" in line]
    return {name: [float(f"{line[name]:.3g}") for line in lines] for name in SHOWN}


def write(plan, seeds):
    """Writes the figures and the picture. Of each run, the last seed counts whose work directory is here and whole.

    Args:
      plan: a comparison_runs.Plan.
      seeds: the seeds of the comparison, in order.
    """
    rows = {}
    for key in RUNS:
        found = {seed: logged(plan.place(key, seed)) for seed in seeds}
        whole = [seed for seed, values in found.items() if len(values["flip_ratio"]) == plan.epochs]
        if whole:
            rows[key] = {"seed": whole[-1], **found[whole[-1]]}
    record.write("comparison_latent", {"folder": plan.folder, "rows": rows})
    figure, axes = figures.subplots(1, len(SHOWN), (10, 3.2))
    for axis, (name, title) in zip(axes, SHOWN.items(), strict=True):
        for (key, values), colour in zip(rows.items(), figures.COLOURS, strict=False):
            axis.semilogy(range(1, len(values[name]) + 1), values[name], color=colour, label=ENTRIES[key].title)
        axis.set_xticks(range(4, plan.epochs + 1, 4))
        figures.tidy(axis, title, "epoch")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    figures.save(figure, DOCS / "measured_latent.png")
