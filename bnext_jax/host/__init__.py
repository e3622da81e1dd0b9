"""The process and the terminal in which a command runs."""
