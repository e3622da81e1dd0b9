"""Accuracy on ImageNet against OPs and against size: published binary networks, and what was measured here."""

import csv
import json
import pathlib

from bnext_jax.analysis import count
from bnext_jax.errors import UserError
from bnext_jax.models.table import abstract_model
from bnext_jax.plot.figures import COLOURS, picture_path, save, subplots, tidy

IMAGES = 50_000  # ImageNet's validation set; a top-1 over fewer is another figure
PUBLISHED = pathlib.Path(__file__).with_name("comparison.csv")
STYLES = {
    "others": (COLOURS[5], "o", "published"),
    "BNext": (COLOURS[0], "s", "BNext, published"),
    "own": (COLOURS[1], "*", "measured here, as it ran"),
}


def read_published(path=PUBLISHED):
    """[{"method", "year", "top1" (percent), "gops", "megabytes" (each a number or None), "family", "source"}] of the CSV."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ("year", "top1", "gops", "megabytes")
    return [{**row, **{key: float(row[key]) if row[key] else None for key in numbers}} for row in rows]


def read_own(folder):
    """The same of what `evaluate` printed, kept as files: {"model", "arguments", "top1", "examples": 50,000, ...} in folder/*.json.

    OPs and sizes are counted, of the network as it ran. Networks without binary weights are left out.
    """
    rows = []
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is no JSON: {error}; write what evaluate prints, or take the file away") from error
        if not isinstance(values, dict) or values.get("examples") != IMAGES or not {"model", "arguments", "top1"} <= values.keys():
            continue
        found = count.measure(values["model"], abstract_model(values["model"], **values["arguments"]), (count.RESOLUTION,) * 2)
        if found["binary_weights"]:
            rows.append({"method": path.stem, "year": None, "top1": values["top1"], "gops": found["ops"] / 1e9,
                         "megabytes": found["bytes"] / 1e6, "family": "own", "source": str(path)})  # fmt: skip
    return rows


def comparison(output=None, results="results"):
    """Draws both panels; returns the picture's path.

    Args:
      output: see picture_path; None = comparison.png. results: folder with files of evaluate's JSON, see read_own; it may be missing.
    Raises:
      UserError: the picture cannot be written.
    """
    path = picture_path(output or "comparison.png")
    rows = read_published() + read_own(results)
    figure, axes = subplots(1, 2, figsize=(11, 5), sharey=True)
    panels = (("gops", "OPs (G): binary MACs / 64 + 8-bit / 8 + 4-bit / 16 + float"), ("megabytes", "size (MB)"))
    for axis, (key, label) in zip(axes, panels, strict=True):
        for family, (colour, marker, told) in STYLES.items():
            chosen = sorted((row for row in rows if row["family"] == family and row[key]), key=lambda row: row[key])
            if chosen:
                line = "-" if family == "BNext" else ""
                values = [row[key] for row in chosen], [row["top1"] for row in chosen]
                axis.plot(*values, linestyle=line, color=colour, marker=marker, markersize=6, linewidth=1.2, label=told)
        axis.set_xscale("log")
        axis.margins(x=0.17, y=0.08)
        ticks = [tick for tick in (0.03, 0.05, 0.1, 0.2, 0.5, 1, 3, 5, 10, 20, 50, 100) if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        tidy(axis, "", label, "ImageNet top-1 (%)" if key == "gops" else "")
    axes[0].legend(loc="lower right")
    figure.suptitle("Binary networks on ImageNet", fontsize=12)
    figure.canvas.draw()  # only now is it known where everything lies
    for axis, (key, _) in zip(axes, panels, strict=True):
        _name_points(axis, [row for row in rows if row[key]], key)
    return save(figure, path)


# where a name may stand beside its point: offset in points, horizontal and vertical alignment; the first that is free is taken
PLACES = (((8, -3), "left", "center"), ((-8, 3), "right", "center"), ((0, 7), "center", "bottom"), ((0, -8), "center", "top"),
          ((6, -7), "left", "top"), ((-6, 7), "right", "bottom"), ((8, 9), "left", "center"), ((8, -13), "left", "center"),
          ((0, -20), "center", "top"))  # fmt: skip


def _name_points(axis, rows, key):
    """Writes each method's name beside its point, where it covers neither another name nor a point."""
    from matplotlib.transforms import Bbox

    points = axis.transData.transform([(row[key], row["top1"]) for row in rows])
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in points]
    for row in rows:
        for place in PLACES:
            offset, horizontal, vertical = place
            name = axis.annotate(
                row["method"], (row[key], row["top1"]), xytext=offset, textcoords="offset points", ha=horizontal, va=vertical, fontsize=8,
                color=STYLES[row["family"]][0],
            )  # fmt: skip
            box = name.get_window_extent()
            inside = box.x0 >= axis.bbox.x0 and box.x1 <= axis.bbox.x1
            if (inside and not any(box.overlaps(other) for other in taken)) or place == PLACES[-1]:
                taken.append(box)
                break
            name.remove()
