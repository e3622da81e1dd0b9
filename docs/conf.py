"""Sphinx's settings for the manual: `make docs` builds it into docs/_build/html."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import commands_page  # noqa: E402

import bnext_jax  # noqa: E402
from bnext_jax.host.process import without_tpu  # noqa: E402

without_tpu()  # autodoc imports JAX
commands_page.write(HERE / "commands.md")

project = "bnext_jax"
copyright = "the bnext_jax developers, Apache-2.0"
version = release = bnext_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the signature is read in the Args section
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"bnext_jax {release}"
