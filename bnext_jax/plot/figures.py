"""What all pictures share: matplotlib without a screen, endings, writing."""

import pathlib

from bnext_jax.errors import UserError

SUFFIXES = (".png", ".svg", ".pdf")


def picture_path(output):
    """The path of a picture to write. Raises UserError for an ending that is none of SUFFIXES, before any work is done."""
    path = pathlib.Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"the picture {path} needs one of the endings {', '.join(SUFFIXES)}")
    return path


def subplots(rows, columns, figsize):
    """(figure, axes) of matplotlib, drawn in memory; figsize in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=figsize, layout="constrained")


def save(figure, path):
    """Writes and closes a figure; returns the path as text. Raises UserError where it cannot be written."""
    from matplotlib import pyplot

    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"the picture {path} cannot be written: {error}") from error
    finally:
        pyplot.close(figure)
    return str(path)
