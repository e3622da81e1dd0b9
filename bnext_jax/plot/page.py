"""Builds one HTML page that needs no other files: every function returns HTML text, pictures are embedded."""

import base64
import html
import io
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

STYLE = pathlib.Path(__file__).with_name("report.css")
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
SMALL = 64  # pixels; smaller images are shown with sharp pixels, not smoothed


def page(title: str, below: str, parts: Iterable[str]) -> str:
    """The whole page.

    Args:
      title: text.
      below: text under the title.
      parts: HTML of the sections.
    Returns:
      The page as HTML.
    """
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
    top = f"<header><h1>{html.escape(title)}</h1><p>{html.escape(below)}</p></header>"
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{STYLE.read_text()}</style></head><body><main>{top}'
        f"{''.join(parts)}</main></body></html>\n"
    )


def section(title: str, *parts: str, note: str = "") -> str:
    """A box with a title.

    Args:
      title: text.
      *parts: HTML.
      note: text below the title.
    Returns:
      HTML.
    """
    told = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{told}{''.join(parts)}</section>"


def folded(title: str, part: str) -> str:
    """A box with a title that opens at a click.

    Args:
      title: text.
      part: HTML inside the box.
    Returns:
      HTML.
    """
    return f"<section><details><summary>{html.escape(title)}</summary>{part}</details></section>"


def cards(values: Mapping[str, str]) -> str:
    """Large numbers side by side.

    Args:
      values: {description: number as text}.
    Returns:
      HTML.
    """
    shown = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>' for what, value in values.items()
    )
    return f'<div class="cards">{shown}</div>'


def table(rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table.

    Args:
      rows: rows of texts; the first row holds the headings.
      kind: a class of report.css.
    Returns:
      HTML.
    """
    head, *others = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
    return f'<div class="scroll"><table class="{kind}"><tr>{head}</tr>{"".join(f"<tr>{row}</tr>" for row in others)}</table></div>'


def _tagged(rows: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """[(HTML tag of the cells, row)]."""
    return [("th" if i == 0 else "td", row) for i, row in enumerate(rows)]


def picture(path: os.PathLike | str, told: str) -> str:
    """A picture as wide as the page.

    Args:
      path: a PNG or SVG file.
      told: text that describes the picture, for readers who cannot see it.
    Returns:
      HTML with the picture inside.
    """
    path = pathlib.Path(path)
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<div class="panned"><img class="wide" alt="{html.escape(told)}" src="data:{KINDS[path.suffix.lower()]};base64,{content}"></div>'
    )


def thumbnail(image: np.ndarray, caption: Sequence[str], kind: str) -> str:
    """One image with a caption, at most 240 x 240 pixels.

    Args:
      image: uint8 [H, W, 3].
      caption: lines of text.
      kind: class of report.css for the last line.
    Returns:
      HTML with the image inside.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((240, 240))
    out = io.BytesIO()
    picture.save(out, "PNG" if min(picture.size) < SMALL else "JPEG", **({} if min(picture.size) < SMALL else {"quality": 85}))
    form = "png" if min(picture.size) < SMALL else "jpeg"
    small = ' class="small"' if form == "png" else ""
    *first, last = map(html.escape, caption)
    text = "<br>".join([*first, f'<span class="{kind}">{last}</span>'])
    source = f"data:image/{form};base64,{base64.b64encode(out.getvalue()).decode()}"
    return f'<figure><img{small} alt="{html.escape(" ".join(caption))}" src="{source}"><figcaption>{text}</figcaption></figure>'


def beside(*parts: str) -> str:
    """HTML of several parts side by side, or below one another where the page is narrow."""
    return f'<div class="beside">{"".join(parts)}</div>'


def gallery(figures: Iterable[str]) -> str:
    """HTML of several thumbnails side by side."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def confusion(names: Sequence[str], columns: Sequence[str], counts: Mapping[tuple[str, str], int]) -> str:
    """A confusion table: a row is a true class, a column a predicted class.

    Args:
      names: true classes, one a row.
      columns: predicted classes, one a column.
      counts: {(row, column): number of images}, 0 where missing.
    Returns:
      HTML. The shade of a cell is the square root of its share of the row.
    """
    head = "<th></th>" + "".join(f'<th class="above" title="{html.escape(name)}">{html.escape(_cut(name))}</th>' for name in columns)
    lines = []
    for name in names:
        total = max(1, sum(count for (row, _), count in counts.items() if row == name))
        cells = []
        for column in columns:
            count = counts.get((name, column), 0)
            shade = 0.85 * (count / total) ** 0.5
            colour = f"background: rgba({'31, 95, 168' if name == column else '184, 68, 44'}, {shade:.2f})" if count else ""
            ink = "; color: white" if shade > 0.5 else ""
            right = ' class="right"' if name == column else ""
            cells.append(f'<td{right} style="{colour}{ink}">{count or ""}</td>')
        lines.append(f'<tr><th title="{html.escape(name)}">{html.escape(_cut(name))}</th>{"".join(cells)}</tr>')
    return f'<div class="scroll"><table class="confusion"><tr>{head}</tr>{"".join(lines)}</table></div>'


def _cut(name: str, longest: int = 14) -> str:
    """The name, shortened with "…" where it is longer than `longest` characters."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
