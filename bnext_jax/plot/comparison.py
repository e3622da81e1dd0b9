"""Draws top-1 accuracy on ImageNet against OPs, size and measured milliseconds: published binary networks, and what was measured here."""

import csv
import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnext_jax.analysis import count
from bnext_jax.analysis.degrees import BNEXT
from bnext_jax.errors import UserError
from bnext_jax.models.table import abstract_model
from bnext_jax.plot.figures import COLOURS, picture_path, save, subplots, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

IMAGES = 50_000  # ImageNet's validation set; a top-1 over fewer images cannot be compared
PUBLISHED = pathlib.Path(__file__).with_name("comparison.csv")
STYLES = {
    "others": (COLOURS[5], "o", "published"),
    "BNext": (COLOURS[0], "s", "BNext, published"),
    "own": (COLOURS[1], "*", "measured here, as it ran"),
}


def read_published(path: os.PathLike | str = PUBLISHED) -> list[dict[str, Any]]:
    """Reads the CSV of published networks.

    Args:
      path: a CSV file with the columns of comparison.csv.
    Returns:
      One dict a network: {"method", "year", "top1" (percent), "gops" (1e9 OPs), "megabytes" (1e6 bytes), "family", "source"}.
      The four numbers are floats, or None where the cell is empty.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ("year", "top1", "gops", "megabytes")
    return [{**row, **{key: float(row[key]) if row[key] else None for key in numbers}} for row in rows]


def read_own(folder: os.PathLike | str) -> list[dict[str, Any]]:
    """Reads our own results: what `evaluate` printed, kept as folder/*.json.

    A file counts if it has {"model", "arguments", "top1", "examples": 50,000}. Other JSON files are skipped, and so are networks
    without binary weights. OPs and size are counted for the network as it ran.

    Args:
      folder: folder with the JSON files; it may be missing.
    Returns:
      Rows as those of read_published; "method" is the file's name without its ending, "year" is None.
    Raises:
      UserError: a file is not JSON.
    """
    rows = []
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}; write the line that evaluate prints into it, or remove the file") from error
        if not isinstance(values, dict) or values.get("examples") != IMAGES or not {"model", "arguments", "top1"} <= values.keys():
            continue
        found = count.measure(values["model"], abstract_model(values["model"], **values["arguments"]), (count.RESOLUTION,) * 2)
        if found["binary_weights"]:
            rows.append({"method": path.stem, "year": None, "top1": values["top1"], "gops": found["ops"] / 1e9,
                         "megabytes": found["bytes"] / 1e6, "family": "own", "source": str(path)})  # fmt: skip
    return rows


def read_speeds(folder: os.PathLike | str) -> tuple[list[dict[str, Any]], str]:
    """Reads measured speeds of BNext, kept as folder/packed.json by benchmarks/packed.py: one processor, one image, medians.

    Returns:
      (one dict for each network and form: {"method", "top1" (published), "milliseconds", "family": "BNext" for the packed network and
      "others" for PyTorch's float network}, the processor). Nothing if the file does not exist.
    """
    path = pathlib.Path(folder) / "packed.json"
    if not path.exists():
        return [], ""
    record = json.loads(path.read_text())
    known = {row["method"]: row["top1"] for row in read_published()}
    rows = []
    for model, method in BNEXT.items():
        measured = record["networks"].get(model, {}).get("milliseconds", {}).get("1", {}).get("1", {})
        floats = [values["median"] for name, values in measured.items() if name.startswith("float, PyTorch")]
        for family, times in (("BNext", [measured["packed, C"]["median"]] if "packed, C" in measured else []), ("others", floats)):
            if times:
                rows.append({"method": method, "top1": known[method], "milliseconds": min(times), "family": family})
    return rows, record["machine"]["processor"]


def _log_axis(axis: "Axes", ticks: Sequence[float]) -> None:
    """Makes the horizontal axis logarithmic, with room for labels, and with those of the ticks that it shows."""
    axis.set_xscale("log")
    axis.margins(x=0.22, y=0.08)
    low, high = axis.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axis.minorticks_off()


def _speeds(axis: "Axes", rows: list[dict[str, Any]], processor: str) -> None:
    """Draws top-1 against milliseconds, packed and in floats, with a line between the two points of a network."""
    for family, label in (("others", "float, PyTorch"), ("BNext", "packed, the engine in C")):
        chosen = [row for row in rows if row["family"] == family]
        points = [row["milliseconds"] for row in chosen], [row["top1"] for row in chosen]
        colour, marker, _ = STYLES[family]
        axis.plot(*points, linestyle="", color=colour, marker=marker, markersize=7, markeredgecolor="white", label=label)
    for method in {row["method"] for row in rows}:
        both = [row for row in rows if row["method"] == method]
        axis.plot([row["milliseconds"] for row in both], [row["top1"] for row in both], color="0.75", linewidth=1, zorder=0)
    for row in (row for row in rows if row["family"] == "BNext"):  # left of its point, where no line is
        place: dict[str, Any] = {"xytext": (-7, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axis.annotate(row["method"], (row["milliseconds"], row["top1"]), **place, fontsize=FONT, color=STYLES["BNext"][0])
    _log_axis(axis, (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000))
    axis.legend(loc="lower right")
    tidy(axis, "", f"milliseconds an image, measured on one core of {processor}", "")


def comparison(output: os.PathLike | str | None = None, results: os.PathLike | str = "results") -> str:
    """Draws top-1 against OPs, against size and, where speeds were measured, against milliseconds.

    Args:
      output: the picture's path, see picture_path; None = comparison.png.
      results: folder with our own results, see read_own and read_speeds; it may be missing.
    Returns:
      The picture's path.
    Raises:
      UserError: the picture cannot be written, or a result is not JSON.
    """
    path = picture_path(output or "comparison.png")
    rows = read_published() + read_own(results)
    speeds, processor = read_speeds(results)
    count_of_panels = 3 if speeds else 2
    figure, axes = subplots(1, count_of_panels, figsize=(5.5 * count_of_panels, 5.5), sharey=True)
    panels = (("gops", "OPs (G): binary MACs / 64 + 8-bit / 8 + 4-bit / 16 + float"), ("megabytes", "size (MB)"))
    for axis, (key, label) in zip(axes, panels, strict=False):
        for family, (colour, marker, told) in STYLES.items():
            chosen = sorted((row for row in rows if row["family"] == family and row[key]), key=lambda row: row[key])
            if chosen:
                line = "-" if family == "BNext" else ""
                values = [row[key] for row in chosen], [row["top1"] for row in chosen]
                axis.plot(
                    *values, linestyle=line, color=colour, marker=marker, markersize=7, markeredgecolor="white", linewidth=1.2, label=told
                )
        _log_axis(axis, (0.03, 0.05, 0.1, 0.2, 0.5, 1, 3, 5, 10, 20, 50, 100))
        tidy(axis, "", label, "ImageNet top-1 (%)" if key == "gops" else "")
    axes[0].legend(loc="lower right")
    if speeds:
        _speeds(axes[2], speeds, processor)
    figure.suptitle("Binary networks on ImageNet", fontsize=12)
    figure.canvas.draw()  # places the panels; labels need final positions
    for axis, (key, _) in zip(axes, panels, strict=False):
        _name_points(axis, [row for row in rows if row[key]], key)
    return save(figure, path)


# Labels. All lengths below are in points (1/72 inch).
FONT = 8
LEADER = 12  # a label farther than this from its point is joined to it by a thin line, its leader
LEADER_STYLE = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
DISTANCES = (7, 18, 28, 40, 55)  # from a point to its label
DIRECTIONS = ((1, 0), (-1, 0), (0.8, -0.6), (-0.8, 0.6), (0, -1), (0, 1), (0.8, 0.6), (-0.8, -0.6))  # at equal cost the first wins
MARKER = 5  # the least distance between a label and every other point


@dataclasses.dataclass(frozen=True)
class Place:
    """A candidate place of a label.

    Attributes:
      distance: from the point to the label's box.
      offset: (x, y) from the point to the label's anchor.
      anchor: where the anchor lies in the box, (x, y), from 0 (left, bottom) to 1 (right, top). The leader ends there.
      box: the label's box.
      leader: the line from the edge of the marker to the label, None where the label is near.
    """

    distance: float
    offset: tuple[float, float]
    anchor: tuple[float, float]
    box: "Bbox"
    leader: "Path | None"


def _places(point: tuple[float, float], width: float, height: float) -> Iterator[Place]:
    """Yields each Place around a point for a label of this size."""
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

    for distance, (x, y) in itertools.product(DISTANCES, DIRECTIONS):
        end = (point[0] + distance * x, point[1] + distance * y)
        anchor = ((1 - np.sign(x)) / 2, (1 - np.sign(y)) / 2)
        box = Bbox.from_bounds(end[0] - anchor[0] * width, end[1] - anchor[1] * height, width, height)
        leader = Path([(point[0] + 4 * x, point[1] + 4 * y), end]) if distance > LEADER else None
        yield Place(distance, (distance * x, distance * y), anchor, box, leader)


def _distance(box: "Bbox", point: tuple[float, float]) -> float:
    """Distance between a box and a point; 0 inside."""
    return math.hypot(max(box.x0 - point[0], 0, point[0] - box.x1), max(box.y0 - point[1], 0, point[1] - box.y1))


def _cost(place: Place, others: Sequence[tuple[float, float]], panel: "Bbox", boxes: "Sequence[Bbox]", lines: "Sequence[Path]") -> float:
    """How hard a label is to read at a place: its distance, plus a penalty for each fault.

    Args:
      place: the place.
      others: every other method's point.
      panel: the room for labels.
      boxes: boxes of the labels and the legend that are already there.
      lines: the lines that are already there: BNext's, and the leaders.
    """
    nearest = min((_distance(place.box, other) for other in others), default=math.inf)
    outside = place.box.x0 < panel.x0 or place.box.x1 > panel.x1 or place.box.y0 < panel.y0 or place.box.y1 > panel.y1
    cost = place.distance + 1000 * outside + 1000 * (nearest < MARKER) + 1000 * sum(place.box.overlaps(box) for box in boxes)
    cost += 200 * sum(line.intersects_bbox(place.box, filled=False) for line in lines)
    if place.leader is None:  # without a line to the point, a reader takes the nearest point: it must be the label's own
        return cost + 100 * (nearest < 1.6 * place.distance + 4)
    cost += 200 * sum(place.leader.intersects_bbox(box, filled=False) for box in boxes)
    cost += 200 * sum(place.leader.intersects_path(line, filled=False) for line in lines)
    passed = min((_segment_distance(place.leader, other) for other in others), default=math.inf)
    return cost + 100 * (passed < 1.1 * MARKER) + 40 * (nearest < place.distance)


def _segment_distance(line: "Path", point: tuple[float, float]) -> float:
    """Distance between a line of two ends and a point."""
    start, end = np.asarray(line.vertices)
    along = end - start
    share = np.clip(np.dot(point - start, along) / np.dot(along, along), 0, 1)
    return math.dist(start + share * along, point)


def _name_points(axis: "Axes", rows: list[dict[str, Any]], key: str) -> None:
    """Writes each method's name at the place with the lowest cost. Draws a line (leader) to the point if the place is far from it.

    Args:
      axis: a panel whose limits and position are final.
      rows: methods, see read_published; each has a number under `key`.
      key: what the horizontal axis shows, "gops" or "megabytes".
    """
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D

    scale = Affine2D().scale(72 / axis.figure.dpi)  # pixels to points
    points = [tuple(point) for point in (axis.transData + scale).transform([(row[key], row["top1"]) for row in rows])]
    panel, legend = axis.bbox.transformed(scale).padded(-4), axis.get_legend()
    boxes = [legend.get_window_extent().transformed(scale)] if legend else []
    line = sorted(point for row, point in zip(rows, points, strict=True) if row["family"] == "BNext")
    lines = [Path(line)] if line else []
    others = [[other for other in range(len(rows)) if other != i] for i in range(len(rows))]
    room = [min((math.dist(points[i], points[other]) for other in others[i]), default=math.inf) for i in range(len(rows))]
    for i in sorted(range(len(rows)), key=room.__getitem__):  # the most crowded points choose first
        name, where = rows[i]["method"], (rows[i][key], rows[i]["top1"])
        probe = axis.annotate(name, where, fontsize=FONT)
        size = probe.get_window_extent().transformed(scale)
        probe.remove()
        around = [points[other] for other in others[i]]
        place = min(_places(points[i], size.width, size.height), key=lambda place: _cost(place, around, panel, boxes, lines))
        x, y = (round(2 * part) for part in place.anchor)
        axis.annotate(
            name, where, xytext=place.offset, textcoords="offset points", ha=("left", "center", "right")[x],
            va=("bottom", "center", "top")[y], fontsize=FONT, color=STYLES[rows[i]["family"]][0],
            arrowprops={**LEADER_STYLE, "relpos": place.anchor} if place.leader else None,
        )  # fmt: skip
        boxes.append(place.box.padded(2))
        lines += [place.leader] if place.leader else []
