"""Imports go one way: each part may use only what stands above it in this list."""

import ast
import pathlib

import bnext_jax

ORDER = [
    "errors", "files", "tables", "process", "cluster", "lowering", "convolution", "quantize", "layers", "binary", "tail",
    "depthwise", "blocks", "models", "convert", "teachers", "config", "distill", "progress", "data", "collectives", "traffic",
    "train", "evaluate", "predict", "macs", "count", "exchange", "tpu", "abstract", "plan", "plot", "quickstart",
]  # fmt: skip
ROOT = pathlib.Path(bnext_jax.__file__).parent


def part(dotted):
    """The part of bnext_jax that a dotted name lies in, or None."""
    words = dotted.split(".")
    return words[1] if words[0] == "bnext_jax" and len(words) > 1 else None


def imported(path):
    """Parts of bnext_jax that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from filter(None, (part(alias.name) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            yield from filter(None, (part(f"{node.module}.{alias.name}") for alias in node.names))


def test_every_part_imports_only_parts_that_stand_before_it():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in ORDER, f"{own} has no place in the order"
        wrong += [f"{path.name} imports {other}" for other in imported(path) if ORDER.index(other) > ORDER.index(own)]
    assert not wrong


def test_no_file_is_longer_than_three_hundred_lines():
    files = [p for folder in ("bnext_jax", "configs", "tests", "benchmarks") for p in (ROOT.parent / folder).rglob("*.py")]
    assert len(files) > 40
    assert not {str(p): n for p in files if (n := len(p.read_text().splitlines())) > 300}
