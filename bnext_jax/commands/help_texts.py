"""The help texts of `bnext`. This module does not import JAX."""

import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any

from bnext_jax.commands.flags import CONFIG, SWITCH, Flag
from bnext_jax.commands.table import COMMANDS
from bnext_jax.config import Config

WIDTH = 100
ABOUT = "Binary neural networks in JAX: train, distill, convert, count, draw. BNext (arXiv 2211.12933) and its building blocks."
CODES = (
    "Progress goes to standard error; the last line on standard output is the result as one JSON object.\n"
    "Exit codes: 0 = success; 2 = a mistake in the command; 3 = plan: the run does not fit;\n"
    "75 = stopped and saved, or a process was lost: run the same command again."
)


def overview(program: str) -> str:
    """Returns the help of the program, with one line per command.

    Args:
      program: how the user calls the program, "bnext" or "python main.py".
    """
    longest = max(map(len, COMMANDS))
    lines = [f"  {name:<{longest}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([
        f"usage: {program} COMMAND [flags] [FILES]", "", ABOUT, "", *lines, "",
        f"`{program} COMMAND --help` explains one command.", "", CODES,
    ])  # fmt: skip


def of_command(program: str, name: str, config: Config | None = None) -> str:
    """Returns the help of one command: its purpose, flags and examples.

    Args:
      program: how the user calls the program.
      name: the command, a key of COMMANDS.
      config: a configuration whose fields are listed too, or None.
    """
    command = COMMANDS[name]
    usage = " ".join([program, name, *(f"--{flag.name}={flag.value}" for flag in command.flags if flag.needed), "[flags]", command.files])
    lines = [f"usage: {usage.strip()}", "", *textwrap.wrap(command.does, WIDTH), "", "flags:"]
    for flag in command.flags:
        lines += _entry(f"--{flag.name}" + (f"={flag.value}" if flag.kind != SWITCH else ""), _told(flag))
    if any(flag.kind == CONFIG for flag in command.flags):
        more = "any field of the configuration" + ("" if config else f"; `{program} {name} --config=FILE --help` lists them")
        lines += _entry("--config.FIELD=VALUE", more)
    lines += ["", "examples:", *(f"  {program} {example}" for example in command.examples)]
    if config is not None:
        lines += ["", "fields of the configuration, with their present values (* = may change when a run resumes):", *fields_text(config)]
    return "\n".join(lines)


def _told(flag: Flag) -> str:
    """Returns a flag's meaning, with its default, or whether it is required."""
    if flag.needed:
        return f"{flag.meaning} (required)"
    return flag.meaning + (f" (default: {flag.default})" if flag.default not in (None, (), False) else "")


def _entry(left: str, right: str) -> list[str]:
    """Returns the lines of one entry in two columns. The right column wraps."""
    column = 34
    wrapped = textwrap.wrap(right, WIDTH - column)
    if len(left) > column - 4:
        return [f"  {left}", *(f"{'':<{column}}{line}" for line in wrapped)]
    return [f"  {left:<{column - 2}}{wrapped[0]}", *(f"{'':<{column}}{line}" for line in wrapped[1:])]


def comments(cls: type) -> dict[str, str]:
    """Returns {field: the comment on the field's line} of a dataclass, from its source code."""
    lines = inspect.getsource(cls).splitlines(keepends=True)
    found: dict[str, str] = {}
    for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
        name = token.line.strip().partition(":")[0]
        if token.type == tokenize.COMMENT and token.line.strip() != token.string:
            found[name] = token.string.lstrip("# ")
    return found


def fields(part: Any, prefix: str = "config.") -> Iterator[tuple[str, Any, str, bool]]:
    """Yields every field of a configuration, the fields of its parts included.

    Args:
      part: a Config, or one of its parts.
      prefix: dotted name of `part`, with a dot at the end.
    Yields:
      (dotted name, value, comment, whether the value may change when a run resumes).
    """
    told = comments(type(part))
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, told.get(field.name, ""), field.metadata["resume"]


def fields_text(config: Config) -> list[str]:
    """Returns the lines of the help that list a configuration's fields."""
    lines: list[str] = []
    for name, value, comment, free in fields(config):
        lines += _entry(f"{'*' if free else ' '} {name}={value!r}", comment or "-")
    return lines
