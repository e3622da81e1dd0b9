"""What `bnext --help` prints. Nothing here imports JAX."""

import dataclasses
import inspect
import io
import textwrap
import tokenize

from bnext_jax.commands.table import COMMANDS, CONFIG, SWITCH

WIDTH = 100
ABOUT = "Binary neural networks in JAX: train, distil, convert, count, draw. BNext (arXiv 2211.12933) and its pieces."
CODES = (
    "Progress goes to standard error; the last line on standard output is the result as one JSON object.\n"
    "Exit codes: 0; 2 = a mistake in what was asked; 3 = plan: does not fit; 75 = stopped and saved, start again."
)


def overview(program):
    """The commands, one a line. program: how the program is called."""
    longest = max(map(len, COMMANDS))
    lines = [f"  {name:<{longest}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([
        f"usage: {program} COMMAND [flags] [FILES]", "", ABOUT, "", *lines, "",
        f"`{program} COMMAND --help` explains one of them.", "", CODES,
    ])  # fmt: skip


def of_command(program, name, config=None):
    """A command's purpose, flags and examples. config: a Config whose fields are listed too, or None."""
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
        lines += ["", "fields of the configuration, with their present values; * = may change when a run resumes:", *fields_text(config)]
    return "\n".join(lines)


def _told(flag):
    if flag.needed:
        return f"{flag.meaning} (needed)"
    return flag.meaning + (f" (default: {flag.default})" if flag.default not in (None, (), False) else "")


def _entry(left, right):
    """Two columns; the right one wraps."""
    column = 34
    wrapped = textwrap.wrap(right, WIDTH - column)
    if len(left) > column - 4:
        return [f"  {left}", *(f"{'':<{column}}{line}" for line in wrapped)]
    return [f"  {left:<{column - 2}}{wrapped[0]}", *(f"{'':<{column}}{line}" for line in wrapped[1:])]


def comments(cls):
    """{field: the comment on its line} of a dataclass, read from its source."""
    lines = inspect.getsource(cls).splitlines(keepends=True)
    found = {}
    for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
        name = token.line.strip().partition(":")[0]
        if token.type == tokenize.COMMENT and token.line.strip() != token.string:
            found[name] = token.string.lstrip("# ")
    return found


def fields(part, prefix="config."):
    """Yields (dotted name, value, comment, whether it may change on resume) of every field of a Config."""
    told = comments(type(part))
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, told.get(field.name, ""), field.metadata["resume"]


def fields_text(config):
    """The lines that list a Config's fields."""
    lines = []
    for name, value, comment, free in fields(config):
        lines += _entry(f"{'*' if free else ' '} {name}={value!r}", comment or "-")
    return lines
