"""What a command and a flag are: the classes behind commands.table."""

import ast
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from bnext_jax.bounds import COUNT, SEED, SIDE
from bnext_jax.errors import UserError, one_line


def whole(name: str, text: str, largest: int = COUNT) -> int:
    """Parses a whole number.

    Args:
      name: the flag's name, for the message.
      text: the flag's value.
      largest: the largest number that the flag takes.
    Returns:
      The number.
    Raises:
      UserError: the text is not a whole number, or the number is too large.
    """
    try:
        number = int(text)
    except ValueError as error:
        raise UserError(f"--{name} {one_line(text, 40)!r} is not a whole number") from error
    if number > largest:
        raise UserError(f"--{name} {one_line(text, 40)} is too large; it may be at most {largest}")
    return number


def seed(name: str, text: str) -> int:
    """Parses a seed, see `whole`."""
    return whole(name, text, SEED)


def side(name: str, text: str) -> int:
    """Parses the height and width of an image in pixels, see `whole`."""
    return whole(name, text, SIDE)


def words(name: str, text: str) -> tuple[str, ...]:
    """Splits a flag's value at commas. Drops spaces around the words and empty words. `name` is not used."""
    del name
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def wholes(name: str, text: str) -> tuple[int, ...]:
    """Parses whole numbers, joined by commas, with or without brackets around all of them. Arguments and errors: see `whole`."""
    return tuple(whole(name, part) for part in words(name, text.strip("()[]")))


def path(name: str, text: str) -> str:
    """Expands "~" in a path. Raises UserError for an empty path. Arguments: see `whole`."""
    if not text:
        raise UserError(f"--{name} is empty; name a path")
    return os.path.expanduser(text)


def as_it_is(name: str, text: str) -> str:
    """Returns the text unchanged. `name` is not used."""
    del name
    return text


def mapping(name: str, text: str) -> dict[str, object]:
    """Parses a dict of plain values with words as keys, in Python syntax. Raises UserError for other text. Arguments: see `whole`."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"--{name} {one_line(text, 40)!r} is not a dict of plain values; write it as \"{{'stem': 'imagenet'}}\"")
    return value


CONFIG, SWITCH = "config", "switch"  # kinds of flags whose value is not a text: a configuration file, and a flag without a value


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
      name: the flag's name, without "--".
      meaning: what the flag does, as one sentence for the help.
      value: placeholder for the flag's value in the help.
      kind: a function (flag's name, text) -> the command's argument; or CONFIG or SWITCH.
      default: the command's argument if the flag is not given.
      needed: whether the flag is required.
      repeated: whether the flag may be given several times. The argument is then a tuple.
    """

    name: str
    meaning: str
    value: str = ""
    kind: Callable | str = as_it_is
    default: object = None
    needed: bool = False
    repeated: bool = False

    def read(self, text: str) -> Any:
        """Converts the text of the flag to the command's argument. Raises UserError for text that does not fit."""
        return self.kind(self.name, text) if callable(self.kind) else text


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      summary: one line for the list of commands.
      does: one paragraph for the command's help.
      flags: the command's Flags.
      examples: command lines, without the program's name.
      module: the module of the function that runs the command.
      function: the function's name. It takes the flags' names (and "files") as keyword arguments.
      files: placeholder for file names in the help; "" if the command takes no file names.
      several: whether the command may run in several processes at once.
    """

    summary: str
    does: str
    flags: tuple
    examples: tuple
    module: str
    function: str
    files: str = ""
    several: bool = False
