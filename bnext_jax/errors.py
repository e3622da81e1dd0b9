"""The one exception that stands for a user's mistake, and what other errors say, on one line."""


class UserError(ValueError):
    """One sentence: what is wrong, where, what to do. main() prints it and exits with code 2."""


def one_line(error):
    """An error's message on one line, cut to a readable length."""
    return " ".join(str(error).split())[:300]
