"""Runs the Python examples of the manual as tests."""

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from bnext_jax.host.process import without_tpu

without_tpu()
pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()
