"""Helpers for all pictures: matplotlib without a screen, one style, file types, writing."""

import io
import os
import pathlib
from typing import TYPE_CHECKING, Any

from bnext_jax.io.files import checked_ending, write_whole
from bnext_jax.io.paths import Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#1f5fa8", "#c8553d", "#2a9d5c", "#8a5fb0", "#e09f3e", "#4a4e57")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "bnext_jax",  # equal pictures give equal files
    "pdf.fonttype": 42,  # TrueType: text stays text, as journals ask
}


def picture_path(output: os.PathLike | str) -> Path:
    """The path of a picture to write. Call it before the work starts.

    Args:
      output: path of the picture.
    Returns:
      The path.
    Raises:
      UserError: the path does not end in one of SUFFIXES.
    """
    return checked_ending(output, "picture", SUFFIXES)


def subplots(rows: int, columns: int, figsize: tuple[float, float], **options: Any) -> tuple["Figure", Any]:
    """Makes a matplotlib figure in our style, drawn in memory.

    Args:
      rows: number of panels from top to bottom.
      columns: number of panels from left to right.
      figsize: (width, height) in inches.
      **options: more arguments of matplotlib.pyplot.subplots.
    Returns:
      (figure, axes) as pyplot.subplots gives them.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    return pyplot.subplots(rows, columns, figsize=figsize, layout="constrained", **options)


def tidy(axis: "Axes", title: str, below: str = "", beside: str = "") -> None:
    """Sets the title and the labels of one panel.

    Args:
      axis: the panel.
      title: text above the panel.
      below: label of the horizontal axis.
      beside: label of the vertical axis.
    """
    axis.set_title(title)
    axis.set_xlabel(below)
    axis.set_ylabel(beside)


def save(figure: "Figure", path: pathlib.PurePath) -> str:
    """Writes a figure atomically and closes it.

    Args:
      figure: a figure made by subplots.
      path: where to write, see picture_path.
    Returns:
      The path as text.
    Raises:
      UserError: the file cannot be written.
    """
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    pyplot.close(figure)
    write_whole(path, content.getvalue(), "picture")
    return str(path)
