"""The exceptions that users see as one sentence, and helpers that format errors on one line."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """A mistake that the user can correct.

    The message is one sentence: what is wrong, where, and what to do. The command line prints it and exits with code 2.
    """


class Unreachable(UserError):
    """A bucket does not answer or refuses. The command line ends the process at once: clients of buckets retry for minutes."""


class MachineLost(Exception):
    """A run lost another process, or its bucket. The command line prints the message and exits with code 75: start again."""


@contextlib.contextmanager
def naming(field: str) -> Iterator[None]:
    """Puts the name of a field before the message of a UserError, where the code that raises it does not know the field.

    Args:
      field: for example "config.init".
    """
    try:
        yield
    except UserError as error:
        raise type(error)(f"{field}: {error}") from error


def one_line(error: object, longest: int = 300) -> str:
    """Returns an error's message on one line.

    Args:
      error: an exception, or a message as text.
      longest: maximum length of the result, in characters.
    Returns:
      The message, cut to `longest` characters, with escapes for characters that steer a terminal. The name of the exception's type if the
      message is empty.
    """
    line = " ".join(str(error).split())[:longest] or type(error).__name__
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in line)


def nearest(word: object, known: Iterable[str]) -> str:
    """Returns a hint for a misspelled word.

    Args:
      word: what the user wrote.
      known: the valid words.
    Returns:
      "; did you mean X?", where X is the most similar known word. "" if no known word is similar.
    """
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
