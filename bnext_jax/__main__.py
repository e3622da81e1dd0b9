"""python -m bnext_jax COMMAND [flags] [FILES]: the program `bnext`."""

from bnext_jax.cli import run

if __name__ == "__main__":
    run()
