"""The report of a run is one self-contained page. Its numbers are those of `evaluate`, the logs and the predictions."""

import base64
import csv
import html.parser
import io
import re
import shutil

import jax.numpy as jnp
import pytest
from PIL import Image

from bnext_jax.io.load import load
from bnext_jax.io.save import save
from bnext_jax.plot import page
from tests.helpers.commands import SMOKE, refused


class Reader(html.parser.HTMLParser):
    """Parses a page.

    Attributes:
      tags: (tag, attributes) of all tags.
      words: the pieces of text.
      open: the tags that are not closed yet.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """The work directory of a student with two teachers, trained for a few steps. The folder `teacher` lies beside it."""
    from bnext_jax import cli as program

    folder = tmp_path_factory.mktemp("runs")
    words = [f"--config.data.directory={digits}", "--config.tensorboard=False", "--config.data.eval_split=test[:120]"]
    teacher = ["main.py", "train", "--config=configs/digits_teacher.py:smoke", f"--workdir={folder / 'teacher'}", *words]
    assert program.main(teacher, io.StringIO()) == 0
    shutil.copytree(folder / "teacher", folder / "another")
    taught = [f"--config.distill.main={folder / 'teacher'}", f"--config.distill.assistants=('{folder / 'another'}',)"]
    student = ["main.py", "train", SMOKE, f"--workdir={folder / 'student'}", *taught, *words]
    assert program.main(student, io.StringIO()) == 0
    return folder / "student"


def test_the_report_shows_results_teachers_config_confusion_and_pictures(run, trained, tmp_path):
    code, result, error = run("plot", "report", f"--workdir={trained}")
    assert code == 0, error
    assert result["report"] == str(trained / "report.html")
    text = (trained / "report.html").read_text()
    reader = Reader(text)
    assert reader.open == [] and not re.search(r"(src|href)=\"(?!data:)|url\(|@import", text)  # loads nothing from outside

    code, found, _ = run("evaluate", f"--checkpoint={trained}", f"--predictions={tmp_path / 'rows.csv'}")
    assert (result["top1"], result["examples"]) == (found["top1"], 120)
    words = "".join(reader.words)
    assert f"{found['top1']:.2f} %" in words and f"{found['loss']:.4f}" in words
    assert (
        list(result["teachers"]) == ["main teacher, convnext", "assistant, convnext"]
        and f"{result['teachers']['main teacher, convnext']:.2f}" in words
    )
    assert "config.model.widths" in words and "[8, 8, 16, 16]" in words

    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = re.search(r'<table class="confusion">.*?</table>', text, re.DOTALL)[0]
    cells = [int(number) for number in re.findall(r">(\d+)</td>", table)]
    assert sum(cells) == len(rows) == 120  # the table shows the ten worst classes, here all ten
    right = [int(number) for number in re.findall(r'class="right"[^>]*>(\d+)</td>', table)]
    assert sum(right) == sum(row["label"] == row["prediction"] for row in rows)

    images = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == 3 + 8 + 8  # curves, maps, weights; wrong and right examples
    for source in images:
        kind, content = source.removeprefix("data:image/").split(";base64,")
        if kind == "png":
            with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
                assert picture.width >= 8
        else:
            assert kind == "svg+xml" and base64.b64decode(content).startswith(b"<?xml")


def test_the_report_can_show_the_packed_file_of_the_run(run, trained, tmp_path):
    model, metadata = load(trained)
    model.temperature[...] = jnp.zeros(())  # this run ends before its weights are exactly binary
    save(tmp_path / "exact", model, {**metadata, "temperature": 0.0})
    packed = tmp_path / "net.bnext"
    assert run("pack", f"--checkpoint={tmp_path / 'exact'}", f"--output={packed}")[0] == 0
    code, result, error = run("plot", "report", f"--workdir={trained}", f"--checkpoint={packed}", f"--output={tmp_path / 'report.html'}")
    assert code == 0, error
    expected = run("evaluate", f"--checkpoint={tmp_path / 'exact'}")[1]
    assert (result["top1"], result["examples"]) == (expected["top1"], 120)
    words = " ".join(Reader((tmp_path / "report.html").read_text()).words)
    assert str(packed) in words and "binary" in words


def test_missing_or_bad_input_of_a_report_is_refused(run, trained, tmp_path):
    refused(run("plot", "report"), "needs --workdir")
    refused(run("plot", "report", f"--workdir={tmp_path}"), "holds no logs")
    refused(run("plot", "report", f"--workdir={trained}", f"--output={tmp_path / 'a.pdf'}"), "needs the ending .html")
    refused(run("plot", "report", f"--workdir={trained}", tmp_path / "none.png"), "none.png cannot be read")
    refused(run("plot", "report", f"--workdir={trained}", "--output=/nowhere/a.html"), "/nowhere/a.html cannot be written")
    Image.new("RGB", (50, 1)).save(tmp_path / "thin.png")
    refused(run("plot", "report", f"--workdir={trained}", tmp_path / "thin.png"), "the image has 50x1 pixels, the network needs sides of 2")


def test_the_report_of_a_real_valued_run_says_nothing_about_binary_weights(run, trained, tmp_path):
    code, _, error = run("plot", "report", f"--workdir={trained.parent / 'teacher'}", f"--output={tmp_path / 'a.html'}")
    words = "".join(Reader((tmp_path / "a.html").read_text()).words)
    assert code == 0, error
    assert "The network has no binary convolutions." in words and "degree of binarization, %" in words and "not yet binary" not in words


def test_names_are_escaped_in_html():
    shown = page.table([["<script>", "a"], ["b & c", "<img src=x>"]])
    assert "<script>" not in shown and "&lt;img src=x&gt;" in shown and "b &amp; c" in shown
    assert "<b>" not in page.confusion(["<b>"], ["<b>"], {("<b>", "<b>"): 3})
