"""What all pictures share: matplotlib without a screen, one style, endings, writing."""

import io

from etils import epath

from bnext_jax.errors import UserError
from bnext_jax.io.files import write_whole

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#1f5fa8", "#c8553d", "#2a9d5c", "#8a5fb0", "#e09f3e", "#4a4e57")
STYLE = {
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
    "svg.hashsalt": "bnext_jax",  # the same picture, the same file
    "pdf.fonttype": 42,  # text stays text, as journals want it
}


def picture_path(output):
    """The path of a picture to write. Raises UserError for an ending that is none of SUFFIXES, before any work is done."""
    path = epath.Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"the picture {path} needs one of the endings {', '.join(SUFFIXES)}")
    return path


def subplots(rows, columns, figsize, **options):
    """(figure, axes) of matplotlib in our style, drawn in memory; figsize in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(STYLE)
    return pyplot.subplots(rows, columns, figsize=figsize, layout="constrained", **options)


def tidy(axis, title, below="", beside=""):
    """Title and labels of one panel."""
    axis.set_title(title)
    axis.set_xlabel(below)
    axis.set_ylabel(beside)


def save(figure, path):
    """Writes and closes a figure; returns the path as text. Raises UserError where it cannot be written."""
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    pyplot.close(figure)
    write_whole(path, content.getvalue(), "picture")
    return str(path)
