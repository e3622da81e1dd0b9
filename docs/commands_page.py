"""Writes commands.md, the page of all commands, flags and configuration fields, from the code that reads them."""

import pathlib

from bnext_jax.commands import help_texts
from bnext_jax.commands.flags import SWITCH
from bnext_jax.commands.table import COMMANDS
from bnext_jax.config import Config


def _cell(text):
    return str(text).replace("|", "\\|").replace("<", "&lt;")


def _default(flag):
    if flag.needed:
        return "needed"
    return "" if flag.default in (None, (), False) else f"`{flag.default}`"


def _command(name):
    command = COMMANDS[name]
    usage = " ".join(["bnext", name, *(f"--{flag.name}={flag.value}" for flag in command.flags if flag.needed), "[flags]", command.files])
    lines = [f"## {name}", "", command.does, "", "```text", usage.strip(), "```", "", "| flag | meaning | default |", "|---|---|---|"]
    for flag in command.flags:
        value = "" if flag.kind == SWITCH else f"={flag.value}"
        lines.append(f"| `--{flag.name}{_cell(value)}` | {_cell(flag.meaning)} | {_default(flag)} |")
    return [*lines, "", "```console", *(f"bnext {example}" for example in command.examples), "```", ""]


def text():
    """The page as MyST Markdown."""
    lines = [
        "# Commands and flags",
        "",
        "Made from the code. `bnext COMMAND --help` prints the same.",
        "",
        help_texts.CODES,
        "",
    ]
    for name in COMMANDS:
        lines += _command(name)
    lines += [
        "## Fields of a configuration", "",
        "`train`, `evaluate`, `prepare`, `plan` and `plot augmentation` take every field as a flag: `--config.FIELD=VALUE`. The last"
        " column says whether a field may change when a run resumes.", "",
        "| field | default | meaning | may change |", "|---|---|---|---|",
    ]  # fmt: skip
    for field, value, comment, free in help_texts.fields(Config()):
        lines.append(f"| `{field}` | `{_cell(value)!s}` | {_cell(comment)} | {'yes' if free else 'no'} |")
    return "\n".join(lines) + "\n"


def write(path: pathlib.Path):
    """Writes the page, unless it is there with the same text."""
    new = text()
    if not path.exists() or path.read_text() != new:
        path.write_text(new)
