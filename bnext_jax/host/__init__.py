"""The process and the terminal that a command runs in."""
