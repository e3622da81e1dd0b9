"""One HTML page that needs nothing else: pieces of it as text, pictures inside."""

import base64
import html
import io
import pathlib

from PIL import Image

STYLE = pathlib.Path(__file__).with_name("report.css")
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
SMALL = 64  # pixels; images below are shown with their pixels, not smoothed


def page(title, below, parts):
    """The whole page. title: text. below: text under it. parts: HTML."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
    top = f"<header><h1>{html.escape(title)}</h1><p>{html.escape(below)}</p></header>"
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{STYLE.read_text()}</style></head><body><main>{top}'
        f"{''.join(parts)}</main></body></html>\n"
    )


def section(title, *parts, note=""):
    """A titled box. parts: HTML. note: text below the title."""
    told = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{told}{''.join(parts)}</section>"


def folded(title, part):
    """A titled box that opens at a click."""
    return f"<section><details><summary>{html.escape(title)}</summary>{part}</details></section>"


def cards(values):
    """Large numbers side by side. values: {what: text}."""
    shown = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>' for what, value in values.items()
    )
    return f'<div class="cards">{shown}</div>'


def table(rows, kind=""):
    """Rows of texts, the first of them the headings. kind: a class of report.css."""
    head, *others = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
    return f'<div class="scroll"><table class="{kind}"><tr>{head}</tr>{"".join(f"<tr>{row}</tr>" for row in others)}</table></div>'


def _tagged(rows):
    return [("th" if i == 0 else "td", row) for i, row in enumerate(rows)]


def picture(path, told):
    """A picture file as wide as the page. told: what it shows, for those who do not see it."""
    path = pathlib.Path(path)
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<div class="panned"><img class="wide" alt="{html.escape(told)}" src="data:{KINDS[path.suffix.lower()]};base64,{content}"></div>'
    )


def thumbnail(image, caption, kind):
    """One image with a caption. image: uint8 [H,W,3]. caption: lines of text. kind: the last line's class of report.css."""
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


def beside(*parts):
    """Pieces side by side where there is room, else below one another."""
    return f'<div class="beside">{"".join(parts)}</div>'


def gallery(figures):
    """Thumbnails side by side."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def confusion(names, columns, counts):
    """A table of how often images of a row's class were taken for a column's.

    Args:
      names, columns: of rows and columns. counts: {(row's name, column's name): images}, 0 where missing.
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


def _cut(name, longest=14):
    return name if len(name) <= longest else name[: longest - 1] + "…"
