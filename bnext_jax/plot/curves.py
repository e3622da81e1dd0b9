"""Curves of a run: loss, top-1, temperature, learning rate."""

import pathlib

from bnext_jax.errors import UserError
from bnext_jax.plot.figures import picture_path, save, subplots
from bnext_jax.train.watch import read_metrics

# (title, unit, [(key, label, colour)], logarithmic)
STUDENT, TRAIN = "#1f5fa8", "#9db8d6"
PANELS = (
    ("loss", "nats", (("train_loss", "training loss", TRAIN), ("test_loss", "test cross-entropy", STUDENT)), True),
    ("top-1", "%", (("train_top1", "train", TRAIN), ("test_top1", "test", STUDENT)), False),
    ("temperature", "", (("temperature", "temperature", STUDENT),), True),
    ("learning rate", "", (("learning_rate", "learning rate", STUDENT),), False),
)


def curves(workdir, output=None, title="", teachers=None):
    """Draws loss, top-1, temperature and learning rate by epoch; returns the picture's path.

    Args:
      workdir: a work directory with logs. output: PNG, SVG or PDF by its ending; None = workdir/curves.png.
      title: above the picture. teachers: {name: top-1 in percent}, drawn as lines to compare with.
    Raises:
      UserError: no logs, or the picture cannot be written.
    """
    lines = read_metrics(workdir)
    if not lines:
        raise UserError(f"{workdir} holds no logs (metrics.jsonl); give a work directory that `train` wrote")
    path = picture_path(output or pathlib.Path(workdir) / "curves.png")
    figure, axes = subplots(2, 2, figsize=(9, 6))
    exact = next((line["epoch"] for line in lines if line.get("temperature") == 0), None)
    for axis, (name, unit, keys, logarithmic) in zip(axes.flat, PANELS, strict=True):
        for key, label, colour in keys:
            points = [(line["epoch"], line[key]) for line in lines if key in line and (line[key] > 0 or not logarithmic)]
            axis.plot(*zip(*points, strict=True), label=label, color=colour, linewidth=1.8)
        if logarithmic:
            axis.set_yscale("log")
        if exact is not None:
            axis.axvspan(exact - 0.5, lines[-1]["epoch"], color="#2a9d5c", alpha=0.10, linewidth=0)
        axis.set_title(f"{name} ({unit})" if unit else name, fontsize=10, loc="left")
        axis.set_xlabel("epoch", fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if name == "top-1":
            _top1_details(axis, lines, teachers or {})
        if len(keys) > 1:
            axis.legend(fontsize=8, frameon=False)
    if exact is not None:
        axes[1, 0].text(0.98, 0.9, "exact signs (T = 0)", transform=axes[1, 0].transAxes, ha="right", fontsize=8, color="#1d6b40")
    figure.suptitle(title, fontsize=12)
    return save(figure, path)


def _top1_details(axis, lines, teachers):
    best = max(line.get("test_top1", 0) for line in lines)
    axis.set_ylim(max(0, min(80, best - 20)), 100.5)
    for (name, top1), colour in zip(teachers.items(), ("#c8553d", "#e09f3e"), strict=False):
        axis.axhline(top1, color=colour, linestyle="--", linewidth=1, label=f"{name} {top1:.1f} %")
