"""The exceptions that are told in one sentence, and what other errors say, on one line."""

import difflib


class UserError(ValueError):
    """One sentence: what is wrong, where, what to do. The command line prints it and exits with code 2."""


class MachineLost(Exception):
    """Another process of the run is gone. The command line prints the sentence and exits with code 75: start again."""


def one_line(error, longest=300):
    """An error's message on one line, cut to `longest` characters; of an error without a message its type."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def nearest(word, known):
    """ "; did you mean X?" with the known word that is most like `word`, or "" where none is."""
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""
