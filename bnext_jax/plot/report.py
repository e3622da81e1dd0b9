"""Writes a report on one run: key figures, curves, evaluation, mistakes, feature maps, cost and configuration in one HTML file."""

import collections
import csv
import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnext_jax.analysis import count
from bnext_jax.analysis.count_rows import summary_rows
from bnext_jax.commands.evaluate import evaluate, evaluate_network
from bnext_jax.config_json import flat_json, from_json
from bnext_jax.data import preprocessing, splits
from bnext_jax.data.augment.transforms import Transform, pixels_of
from bnext_jax.data.datasets import imagenet
from bnext_jax.data.decode.photo import Photo, use_photo
from bnext_jax.distill import schedule
from bnext_jax.errors import UserError
from bnext_jax.host.process import program
from bnext_jax.host.progress import duration
from bnext_jax.io.files import write_whole
from bnext_jax.io.load import describe, load
from bnext_jax.io.paths import to_path
from bnext_jax.models.table import abstract_model
from bnext_jax.plot import page
from bnext_jax.plot.curves import curves, read_logs
from bnext_jax.plot.features import draw_maps, fitted, kind_of_weights, maps_of, names_of_layers, weights

if TYPE_CHECKING:
    from bnext_jax.config import Config
    from bnext_jax.models.base import TableModel

log = logging.getLogger(__name__)
WORST, CONFUSED = 10, 14  # rows and columns of the confusion table
EXAMPLES = 8  # right predictions shown, and as many wrong ones


def report(
    workdir: os.PathLike | str,
    words: Sequence[str] = (),
    output: os.PathLike | str | None = None,
    checkpoint: os.PathLike | str | None = None,
) -> dict[str, Any]:
    """Evaluates a run and writes the report.

    Args:
      workdir: a work directory that `train` wrote; its dataset must be prepared.
      words: at most one image file, for the feature maps; () = the first image of the evaluation split.
      output: an .html file; None = report.html in the work directory.
      checkpoint: a packed file of the run, to evaluate instead of the run's checkpoint; None = the run's checkpoint.
    Returns:
      {"report": path, "top1": percent, "examples": number of images, "teachers": {name: top-1 in percent}}.
    Raises:
      UserError: the run, its logs or its dataset are missing, the image cannot be read, or the report cannot be written.
    """
    path = to_path(output or to_path(workdir) / "report.html")
    if path.suffix.lower() != ".html":
        raise UserError(f"the report {path} needs the ending .html")
    if not path.parent.exists():
        raise UserError(f"the report {path} cannot be written: there is no folder {path.parent}")
    if len(words) > 1:
        raise UserError(f"plot report takes one image at most, got {len(words)}")
    lines = read_logs(workdir)
    model, metadata = load(checkpoint or workdir, form="float")
    evaluated = load(checkpoint)[0] if checkpoint else model
    config = from_json(describe(workdir)["config"]).check()
    source = splits.open_source(config.data, config.data.eval_split)
    shown = (
        fitted(use_photo(words[0], Photo.pixels, upright=preprocessing.upright(metadata["preprocessing"])), model.total_stride)
        if words and names_of_layers(model)
        else None
    )
    with tempfile.TemporaryDirectory() as folder:
        log.info("evaluating %s on %d images", checkpoint or workdir, len(source))
        found = evaluate_network(evaluated, metadata, checkpoint or workdir, config, predictions=f"{folder}/predictions.csv")
        with open(f"{folder}/predictions.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        teachers_found = _teachers(workdir, config)
        readable = dict(zip(source.class_names, imagenet.readable(source.class_names, len(source.class_names)), strict=True))
        for row in rows:
            row["label"], row["prediction"] = readable[row["label"]], readable[row["prediction"]]
        counted = {metadata["model"]["name"]: _counted(metadata)}
        parts = [
            _cards(found, counted, metadata, lines),
            page.section(
                "Curves", page.picture(curves([workdir], f"{folder}/curves.svg", teachers=_top1(teachers_found)), "curves of the run")
            ),
            _evaluation(found, teachers_found, source),
            _confusion(rows),
            _examples(rows, source),
            _features(model, metadata, shown, source, config, pathlib.Path(folder)),
            page.section(
                "Cost",
                page.table(summary_rows(counted)),
                note=f"{program()} count; OPs = binary MACs / 64 + 8-bit / 8 + 4-bit / 16 + float",
            ),
            page.folded(
                "Configuration", page.table([["field", "value"], *([k, _shown(v)] for k, v in flat_json(config).items())], "config")
            ),
        ]
    title = f"{metadata['model']['name']} on {config.data.name}"
    below = f"{checkpoint or workdir}, step {metadata['step']}, epoch {metadata['epoch']} of {config.epochs}"
    write_whole(path, page.page(title, below, parts), "report")
    return {"report": str(path), "top1": found["top1"], "examples": found["examples"], "teachers": _top1(teachers_found)}


def _teachers(workdir: os.PathLike | str, config: "Config") -> dict[str, dict[str, Any]]:
    """Evaluates the run's teachers: {name: result of evaluate}. Warns and skips a teacher whose file is gone."""
    found: dict[str, dict[str, Any]] = {}
    for name in config.distill.teacher_names():
        place = schedule.located(name)
        if not to_path(place).exists():
            log.warning("teacher %s of %s no longer exists; the report leaves it out", name, workdir)
            continue
        log.info("evaluating teacher %s", name)
        values = evaluate(place, config)
        role = f"{'main teacher' if name == config.distill.main else 'assistant'}, {values['model']}"
        found[role if role not in found else f"{role} ({place})"] = values
    return found


def _top1(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """{name: top-1 in percent}."""
    return {name: values["top1"] for name, values in found.items()}


def _counted(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The result of count.measure for the network, at the image size of the evaluation."""
    described = metadata["model"]
    model = abstract_model(described["name"], described["num_classes"], **described["arguments"])
    return count.measure(described["name"], model, tuple(metadata["preprocessing"]["image_shape"][:2]))


def _cards(
    found: Mapping[str, Any], counted: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> str:
    """The key figures."""
    values = next(iter(counted.values()))
    seconds = sum(sum(v for k, v in line.items() if k in ("step_seconds", "data_wait_seconds")) for line in lines)
    size = values["bytes"]
    temperature = metadata["temperature"]
    weights_at = "binary weights" if temperature is None else f"at temperature {temperature:.2g}"
    binary = {
        "degree of binarization": f"{values['degree']:.1f} %",
        weights_at: "binary" if found["binary"] else "not yet binary",
    }
    return page.cards({
        f"top-1 over {found['examples']:,} images": f"{found['top1']:.2f} %",
        "top-5": f"{found['top5']:.2f} %",
        "packed size": f"{size / 2**20:.2f} MiB" if size >= 2**20 else f"{size / 1024:.1f} KiB",
        "OPs an image": f"{values['ops'] / 1e9:.3f} G" if values["ops"] >= 1e7 else f"{values['ops'] / 1e6:.3f} M",
        **(binary if values["binary_weights"] else {}),
        "parameters": f"{values['parameters']:,}",
        "training time": duration(seconds),
    })  # fmt: skip


def _evaluation(found: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], source: splits.Source) -> str:
    """The table of the student's and the teachers' accuracies."""
    rows = [["", "top-1 %", "top-5 %", "cross-entropy", "images", "precision"]]
    for name, values in {"student": found, **others}.items():
        numbers = [f"{values['top1']:.2f}", f"{values['top5']:.2f}", f"{values['loss']:.4f}", f"{values['examples']:,}"]
        rows.append([name, *numbers, values["precision"]])
    return page.section("Evaluation", page.table(rows), note=f"every image of {source.name}'s {source.split} split, counted once")


def _confusion(rows: Sequence[Mapping[str, str]]) -> str:
    """The classes with the lowest accuracy, and the classes predicted for their images."""
    counts = collections.Counter((row["label"], row["prediction"]) for row in rows)
    totals = collections.Counter(row["label"] for row in rows)
    right = {name: counts[name, name] / total for name, total in totals.items()}
    worst = sorted(right, key=lambda name: (right[name], name))[:WORST]
    mistaken = collections.Counter({column: n for (row, column), n in counts.items() if row in worst and row != column})
    columns = [*worst, *(name for name, _ in mistaken.most_common() if name not in worst)][: max(CONFUSED, len(worst))]
    shown = {pair: n for pair, n in counts.items() if pair[0] in worst}
    accuracy = [["class", "top-1 %", "images"], *([name, f"{100 * right[name]:.1f}", f"{totals[name]}"] for name in worst)]
    note = "rows: true class, columns: prediction; counts of images"
    return page.section(
        f"The {len(worst)} worst classes", page.beside(page.confusion(worst, columns, shown), page.table(accuracy)), note=note
    )


def _examples(rows: Sequence[Mapping[str, str]], source: splits.Source) -> str:
    """Wrong predictions, most confident first, and random right ones."""
    wrong = sorted((row for row in rows if row["label"] != row["prediction"]), key=lambda row: -float(row["probability"]))[:EXAMPLES]
    right = [row for row in rows if row["label"] == row["prediction"]]
    drawn = np.random.default_rng(0).permutation(len(right))[:EXAMPLES]

    def figure(row, kind):
        image = pixels_of(source.example(int(row["index"]))[0])
        told = f"{row['prediction']} ({100 * float(row['probability']):.0f} %)"
        return page.thumbnail(np.asarray(image), [f"is {row['label']}", f"said {told}"], kind)

    return page.section(
        "Examples",
        "<h3>Wrong, most confident first</h3>" if wrong else "<p>No image is wrong.</p>",
        page.gallery([figure(row, "wrong") for row in wrong]),
        "<h3>Right</h3>",
        page.gallery([figure(right[i], "ok") for i in drawn]),
        note="true class; prediction and its probability",
    )


def _features(
    model: "TableModel",
    metadata: Mapping[str, Any],
    shown: np.ndarray | None,
    source: splits.Source,
    config: "Config",
    folder: pathlib.Path,
) -> str:
    """The feature maps of `shown`, or of the evaluation split's first image, and the latent weights."""
    if not names_of_layers(model):
        return page.section("Feature maps", "<p>The network has no binary convolutions.</p>")
    image = shown
    if image is None:
        image = fitted(Transform(config.data.eval_transform)(source.example(0)[0], None), model.total_stride)
    kept = maps_of(model, metadata, image, names_of_layers(model))
    maps = draw_maps(image, kept, folder / "features.png", caption="the image")
    lying = weights(model, metadata, folder / "weights.svg")
    note = "inputs of the binary convolutions: light +1, dark -1, red exactly 0"
    return page.section("Feature maps", page.picture(maps, "binary feature maps"), note=note) + page.section(
        f"{kind_of_weights(model).capitalize()} weights", page.picture(lying, f"{kind_of_weights(model)} weights by layer")
    )


def _shown(value: object) -> str:
    """A field's value as text, "-" where it is empty."""
    return "-" if value in ("", None, []) else str(value)
