"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """One sentence: what is wrong, where, what to do. main() prints it and exits with code 2."""
