"""python main.py COMMAND [flags] [FILES]: `bnext` in a clone, see bnext_jax.cli."""

from bnext_jax.cli import run

if __name__ == "__main__":
    run()
