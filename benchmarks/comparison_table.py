"""The table and the picture of benchmarks/comparison.py, from results/comparison.jsonl.

They are results/comparison.json, docs/measured.png, and the table in docs/measured.md, between the two lines MARKS.
"""

import pathlib
import statistics

from benchmarks import record
from benchmarks.comparison_runs import ENTRIES, EXACT_FROM, RATE
from bnext_jax.plot import figures

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PICTURE, PAGE = DOCS / "measured.png", DOCS / "measured.md"
MARKS = ("<!-- the table: written by benchmarks/comparison.py -->", "<!-- end of the table -->")
GROUPS = ("BNext", "ablation", "distillation", "ancestor", "own recipe", "real-valued")


def write(plan, done, counted):
    """Writes the table and the picture.

    Args:
      plan: a comparison_runs.Plan.
      done: {(key, seed): line of the run}.
      counted: {key: {"parameters", "binary_macs", "ops", "bytes"}}.
    """
    speeds = record.kept("comparison_speed").get("networks", {})
    rows = {key: row(key, done, counted[key], speeds.get(key, {})) for key in ENTRIES if (key, 0) in done}
    noise = pooled(rows.values())
    for key, entry in ENTRIES.items():
        if key in rows and entry.against in rows:
            rows[key] |= compared(rows[key], rows[entry.against], entry.against, noise)
    settings = {"images": plan.images, "epochs": plan.epochs, "learning_rate": RATE, "exact_from": EXACT_FROM,
                "processors": sorted({line["machine"] for line in done.values()})}  # fmt: skip
    record.write("comparison", {"settings": settings, "runs": len(done), "pooled_spread": noise, "rows": rows})
    draw(rows)
    if PAGE.exists():
        before, _, rest = PAGE.read_text().partition(MARKS[0])
        PAGE.write_text(f"{before}{MARKS[0]}\n\n{markdown(rows)}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def markdown(rows):
    """The table of the manual, one row a run, by group."""
    lines = [
        "| | top-1 % | seeds | against its reference | parameters | bytes packed | OPs, millions | s a step | ms packed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for group in GROUPS:
        lines.append(f"| **{group}** | | | | | | | | |")
        lines += [_cells(one) for one in rows.values() if one["group"] == group]
    return "\n".join(lines)


def _cells(one):
    """One line of the table. What was not measured is a dash."""
    top1 = f"{one['top1']:.2f}" + (f" ± {one['spread']:.2f}" if one["spread"] is not None else "")
    against = ""
    if "difference" in one:
        against = f"{one['difference']:+.2f}" + (f" ± {one['error']:.2f}" if one["error"] is not None else "")
    packed = ", ".join(f"{ms:.2f} ({form})" for form, ms in one.get("milliseconds", {}).items()) or "-"
    figures_of = (f"{one['parameters']:,}", f"{one['bytes_packed']:,}" if "bytes_packed" in one else "-", f"{one['ops'] / 1e6:.2f}",
                  f"{one['step_seconds']:.3f}" if "step_seconds" in one else "-", packed)  # fmt: skip
    return f"| {' | '.join((one['title'], top1, str(len(one['values'])), against, *figures_of))} |"


def row(key, done, counted, speed):
    """One row: {"group", "title", "top1", "spread", "values", counts, speeds}. The spread is the standard deviation over the seeds."""
    lines = [line for (run, _), line in sorted(done.items()) if run == key]
    values = [line["top1"] for line in lines]
    return {
        "group": ENTRIES[key].group,
        "title": ENTRIES[key].title,
        "top1": round(statistics.mean(values), 2),
        "spread": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        "values": values,
        "binary": all(line["binary"] for line in lines) if lines[0]["binary"] is not None else None,
        **counted,
        **speed,
    }


def pooled(rows):
    """The standard deviation over the seeds, from all rows with several seeds together: the root of their mean variance. None without any.

    Of two or three seeds alone it would be known within a factor of two or three only.
    """
    squares = [sum((value - statistics.mean(one["values"])) ** 2 for value in one["values"]) for one in rows]
    free = sum(len(one["values"]) - 1 for one in rows)
    return round((sum(squares) / free) ** 0.5, 3) if free else None


def compared(one, other, name, noise):
    """The difference of two rows, and the standard error of the difference of their means.

    A difference is within noise if it is smaller than twice the standard error.

    Args:
      one: a row.
      other: the row that it is compared with.
      name: key of that row.
      noise: the standard deviation over the seeds (`pooled`); None = the error is unknown.
    """
    difference = round(statistics.mean(one["values"]) - statistics.mean(other["values"]), 2)
    error = noise and round(noise * (1 / len(one["values"]) + 1 / len(other["values"])) ** 0.5, 2)
    return {"against": name, "difference": difference, "error": error}


def draw(rows):
    """Draws top-1 of all rows, by group: each seed as a dot, the mean as a bar."""
    shown = [one for group in GROUPS for one in rows.values() if one["group"] == group]
    figure, axis = figures.subplots(1, 1, (8, 0.27 * len(shown) + 1))
    colours = dict(zip(GROUPS, figures.COLOURS, strict=True))
    for place, one in enumerate(shown):
        axis.plot([one["top1"]] * 2, [place - 0.35, place + 0.35], color=colours[one["group"]], linewidth=2.5)
        axis.plot(one["values"], [place] * len(one["values"]), "o", color=colours[one["group"]], markersize=4, alpha=0.6)
    base = rows["bnext"]["top1"]
    axis.axvline(base, color=colours["BNext"], linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(shown)), [one["title"] for one in shown])
    for group in GROUPS:
        axis.plot([], [], "o", color=colours[group], label=group)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.legend(loc="upper center", bbox_to_anchor=(0.2, -0.06), ncol=len(GROUPS))
    figures.tidy(axis, "Fashion-MNIST: each seed (dots), mean (bars)", "top-1 on 10,000 test images (%)")
    figures.save(figure, PICTURE)
