"""The README and the manual: their commands parse, their links point to existing files, and the README's Python runs.

docs/conftest.py runs the Python examples of the manual.
"""

import re
import shlex

import pytest

from bnext_jax import cli
from tests.helpers.commands import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path, kind):
    """The texts of a page's fenced blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands():
    """Yields every `bnext ...` line of the console blocks, with the page in its id. A backslash at the end continues a line."""
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("bnext ") or line == "bnext":
                    yield pytest.param(line, id=f"{page.stem}: {line[:60]}")


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_of_the_manual_parses(line):
    words = ["bnext", *shlex.split(line, comments=True)[1:]]
    if cli.help_text(words[1:]) is not None:
        return
    config = next((word for word in words if word.startswith("--config=")), "")
    if config and not (ROOT / config.removeprefix("--config=").partition(":")[0]).exists():  # the reader writes this file
        words = [word for word in words if not word.startswith("--config.")]
        words[words.index(config)] = "--config=configs/digits_student.py"
    cli.parse(words)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    (block,) = blocks(ROOT / "README.md", "python")
    exec(block, found)
    assert found["logits"].shape == (1, 10) and found["metadata"]["model"]["arguments"]["widths"] == [8, 8, 16]


@pytest.mark.parametrize(
    "page", [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")], ids=lambda page: page.name
)
def test_the_links_of_pages_outside_the_manual_point_to_existing_files(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in link]
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_readme_is_one_page_and_every_picture_is_shown_once():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    shown = [name for page in PAGES for name in re.findall(r"!\[[^]]*\]\((?:docs/)?([\w.]+)\)", page.read_text())]
    manual = [name for page in PAGES[1:] for name in re.findall(r"!\[[^]]*\]\(([\w.]+)\)", page.read_text())]
    assert {path.name for path in (ROOT / "docs").glob("*.png")} == set(shown) and len(manual) == len(set(manual))


def test_code_cites_existing_sections_of_the_spec():
    spec = (ROOT / "docs/spec.md").read_text()
    known = {number for number in re.findall(r"^## (\d+)\.", spec, flags=re.MULTILINE)}
    cited = [
        (path, number)
        for folder in ("bnext_jax", "tests", "configs", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for number in re.findall(r"spec\.md, sections? (\d+)", path.read_text())
    ]
    assert len(cited) > 20 and {number for _, number in cited} <= known
