"""Runs the program `bnext`: python -m bnext_jax COMMAND [flags] [FILES]."""

from bnext_jax.cli import run

if __name__ == "__main__":
    run()
