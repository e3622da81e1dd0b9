"""Rows of text as a table: aligned for a terminal, Markdown, CSV."""

import csv
import io

from etils import epath

from bnext_jax.errors import UserError
from bnext_jax.io.files import write_whole

SUFFIXES = (".md", ".csv")


def text(rows):
    """Rows of texts, the first of them the headings, in columns: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        others = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        return "  ".join([f"{row[0]:<{widths[0]}}", *others]).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])])


def markdown(rows):
    """The same as a Markdown table; its columns are aligned likewise."""
    alignment = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], alignment, *rows[1:]))


def comma_separated(rows):
    """The same as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def file_path(output):
    """The path of a table to write. Raises UserError for an ending that is none of SUFFIXES, before any work is done."""
    path = epath.Path(output)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"the table {path} needs one of the endings {', '.join(SUFFIXES)}")
    return path


def save(rows, path):
    """Writes a table to a path of file_path. Raises UserError where that cannot be."""
    write_whole(path, markdown(rows) if path.suffix.lower() == ".md" else comma_separated(rows), "table")
