"""Formats rows of text as a table: aligned for a terminal, as Markdown, or as CSV."""

import csv
import io
import os
from collections.abc import Sequence

from bnext_jax.io.files import checked_ending, write_whole
from bnext_jax.io.paths import Path

SUFFIXES = (".md", ".csv")
SENTENCE = 60  # characters; a longer cell is a sentence


def text(rows: Sequence[Sequence[str]]) -> str:
    """Formats a table for a terminal. The first column is aligned to the left, the others to the right.

    Args:
      rows: the cells; the first row holds the headings.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        others = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        return "  ".join([f"{row[0]:<{widths[0]}}", *others]).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Formats a table as Markdown. Argument and alignment: see `text`. A column with sentences is aligned to the left too."""
    alignment = ["---" if i == 0 or max(map(len, column)) > SENTENCE else "---:" for i, column in enumerate(zip(*rows, strict=True))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], alignment, *rows[1:]))


def comma_separated(rows: Sequence[Sequence[str]]) -> str:
    """Formats a table as CSV. Argument: see `text`."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def file_path(output: os.PathLike | str) -> Path:
    """Returns the path of a table that will be written. Commands call this before they start to work.

    Raises:
      UserError: the suffix is not one of SUFFIXES.
    """
    return checked_ending(output, "table", SUFFIXES)


def save(rows: Sequence[Sequence[str]], path: Path) -> None:
    """Writes a table to a file.

    Args:
      rows: the cells; the first row holds the headings.
      path: from `file_path`. The suffix selects Markdown or CSV.
    Raises:
      UserError: the file cannot be written.
    """
    write_whole(path, markdown(rows) if path.suffix.lower() == ".md" else comma_separated(rows), "table")
