"""The exceptions that are told in one sentence, and what other errors say, on one line."""


class UserError(ValueError):
    """One sentence: what is wrong, where, what to do. main() prints it and exits with code 2."""


class MachineLost(Exception):
    """Another process of the run is gone. main() prints the sentence and exits with code 75: start again."""


def one_line(error):
    """An error's message on one line, cut to a readable length."""
    return " ".join(str(error).split())[:300]
