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
    for key, entry in ENTRIES.items():
        if key in rows and entry.against in rows:
            rows[key] |= compared(rows[key], rows[entry.against], entry.against)
    seconds = sum(line["seconds"] for line in done.values())
    settings = {"images": plan.images, "epochs": plan.epochs, "learning_rate": RATE, "exact_from": EXACT_FROM}
    record.write("comparison", {"settings": settings, "hours": round(seconds / 3600, 2), "runs": len(done), "rows": rows})
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
    whole = [sum(line["train_seconds"]) for line in lines if not line["resumed"]]
    return {
        "group": ENTRIES[key].group,
        "title": ENTRIES[key].title,
        "top1": round(statistics.mean(values), 2),
        "spread": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        "values": values,
        "binary": all(line["binary"] for line in lines) if lines[0]["binary"] is not None else None,
        "train_seconds": round(statistics.median(whole), 1) if whole else None,
        **counted,
        **speed,
    }


def compared(one, other, name):
    """The difference of two rows, and its uncertainty: the standard error of the difference of two means, None with a single seed.

    A difference is within noise if it is smaller than twice the standard error.
    """
    difference = one["top1"] - other["top1"]
    if one["spread"] is None or other["spread"] is None:
        return {"against": name, "difference": round(difference, 2), "error": None}
    error = (one["spread"] ** 2 / len(one["values"]) + other["spread"] ** 2 / len(other["values"])) ** 0.5
    return {"against": name, "difference": round(difference, 2), "error": round(error, 2)}


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
    figures.tidy(axis, "Fashion-MNIST, top-1 of each seed (dots) and mean (bars)", "top-1 on 10,000 test images (%)")
    figures.save(figure, PICTURE)
