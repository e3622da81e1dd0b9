"""Draws the curves of one or several runs: loss, top-1, flip ratio, temperature, learning rate, share of exactly binary weights."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bnext_jax.errors import UserError
from bnext_jax.io.logs import read_metrics
from bnext_jax.io.paths import to_path
from bnext_jax.plot.figures import COLOURS, picture_path, save, subplots, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# (title, ((key in the log, legend, line style), ...), whether the axis is logarithmic, factor from the log's unit to the title's)
PANELS = (
    ("loss (nats)", (("train_loss", "training loss", ":"), ("test_loss", "cross-entropy on the evaluation split", "-")), True, 1),
    ("top-1 (%)", (("train_top1", "training images", ":"), ("test_top1", "evaluation split", "-")), False, 1),
    ("flip ratio (%)", (("flip_ratio", "", "-"),), True, 100),
    ("temperature", (("temperature", "", "-"),), True, 1),
    ("learning rate", (("learning_rate", "", "-"),), False, 1),
    ("binary weights at exactly ±1 (%)", (("binary_share", "", "-"),), False, 100),
)


def curves(
    workdirs: Sequence[os.PathLike | str],
    output: os.PathLike | str | None = None,
    title: str = "",
    teachers: Mapping[str, float] | None = None,
) -> str:
    """Draws the values of metrics.jsonl against the epoch, one color a run. A panel that no run has values for is left out.

    Args:
      workdirs: work directories with logs, at least one.
      output: the picture's path, see picture_path; None = curves.png in the first work directory.
      title: text above the picture.
      teachers: {name: top-1 in percent}; each is drawn as a horizontal line in the top-1 panel.
    Returns:
      The picture's path.
    Raises:
      UserError: a work directory has no logs, or the picture cannot be written.
    """
    runs = {}
    for workdir in workdirs:
        runs[str(workdir)] = read_logs(workdir)
    path = picture_path(output or to_path(workdirs[0]) / "curves.png")
    names = _short(list(runs))
    logged = {key for lines in runs.values() for line in lines for key in line}
    panels = [panel for panel in PANELS if logged.intersection(key for key, *_ in panel[1])]  # a real network has no signs to flip
    columns = -(-len(panels) // 2)
    figure, grid = subplots(2, columns, figsize=(4 * columns, 6.2))
    axes = {name: axis for (name, *_), axis in zip(panels, grid.flat, strict=False)}
    for axis in grid.flat[len(panels) :]:
        axis.remove()
    for (name, keys, logarithmic, factor), axis in zip(panels, axes.values(), strict=True):
        for lines, colour in zip(runs.values(), COLOURS * len(runs), strict=False):
            for key, _, style in keys:
                points = [(line["epoch"], factor * line[key]) for line in lines if key in line and (line[key] > 0 or not logarithmic)]
                axis.plot(*zip(*points, strict=True), color=colour, linestyle=style, marker="o" if len(points) == 1 else "")
            if len(runs) == 1:
                _shade_exact(axis, lines)
        if logarithmic:
            axis.set_yscale("log")
        axis.set_xlim(0, 1.03 * max(lines[-1]["epoch"] for lines in runs.values()))
        tidy(axis, name, "epoch")
    _legends(figure, axes, names, teachers or {}, list(runs.values()))
    figure.suptitle(title, fontsize=12)
    return save(figure, path)


def read_logs(workdir: os.PathLike | str) -> list[dict[str, Any]]:
    """The lines of a work directory's metrics.jsonl, see io.logs.read_metrics. Raises UserError where there are none."""
    lines = read_metrics(workdir)
    if not lines:
        raise UserError(f"{workdir} holds no logs (metrics.jsonl); give a work directory that `train` wrote")
    return lines


def _short(paths: Sequence[str]) -> dict[str, str]:
    """{path: name for the legend}. The name is the path without the parent folders that all paths share."""
    parts = [pathlib.Path(path).parts for path in paths]
    shared = 0
    while len(paths) > 1 and all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return {path: "/".join(p[shared:]) for path, p in zip(paths, parts, strict=True)}


def _shade_exact(axis: "Axes", lines: Sequence[Mapping[str, Any]]) -> None:
    """Shades the epochs with exact signs, T = 0."""
    exact = next((line["epoch"] for line in lines if line.get("temperature") == 0), None)
    if exact is not None:
        axis.axvspan(exact - 0.5, lines[-1]["epoch"], color="#2a9d5c", alpha=0.10, linewidth=0)


def _legends(
    figure: "Figure",
    axes: Mapping[str, "Axes"],
    names: Mapping[str, str],
    teachers: Mapping[str, float],
    runs: Sequence[Sequence[Mapping[str, Any]]],
) -> None:
    """Draws the legends and the teachers' lines, and sets the limits of the top-1 panel."""
    from matplotlib.lines import Line2D

    def styles(axis, keys, more=()):
        handles = [Line2D([], [], color="0.3", linestyle=style, label=label) for _, label, style in keys]
        axis.legend(handles=[*handles, *more], loc="best")

    loss, top1 = axes[PANELS[0][0]], axes[PANELS[1][0]]
    styles(loss, PANELS[0][1])
    bests = [max((line[key] for line in lines for key in ("test_top1", "train_top1") if key in line), default=0) for lines in runs]
    low = min([*bests, *teachers.values()])
    if low > 80:  # show the end of training in detail; the first epochs may fall outside
        top1.set_ylim(min(80, low - 20), 100.5)
    lines = [top1.axhline(value, color=colour, linestyle="--", linewidth=1, label=f"{name} {value:.1f} %")
             for (name, value), colour in zip(teachers.items(), COLOURS[1:] * len(teachers), strict=False)]  # fmt: skip
    styles(top1, PANELS[1][1], lines)
    if len(names) > 1:
        handles = [Line2D([], [], color=colour, label=name) for name, colour in zip(names.values(), COLOURS * len(names), strict=False)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(names)))
    elif any(line.get("temperature") == 0 for line in runs[0]):
        axis = axes["temperature"]
        axis.text(0.98, 0.92, "shaded: exact signs (T = 0)", transform=axis.transAxes, ha="right", fontsize=8, color="#1d6b40")
