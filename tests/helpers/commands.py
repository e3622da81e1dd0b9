"""Helpers for tests of commands."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
SMOKE = "--config=configs/digits_student.py:smoke"


def refused(outcome, *parts):
    """Asserts that the outcome of run() is exit code 2 and no result, and that the last line of standard error contains all parts."""
    code, result, error = outcome
    assert (code, result) == (2, None), error
    line = error.strip().splitlines()[-1]
    assert line.startswith("bnext: ") and "Traceback" not in error
    for words in parts:
        assert words in line, line


def command(*words):
    """Runs main.py in a real process, in the repository's root. It uses the tests' cache of compiled programs."""
    return subprocess.run([sys.executable, "main.py", *map(str, words)], capture_output=True, text=True, cwd=ROOT, check=False)


def result_of(done):
    """Returns the JSON object on the only line of standard output, after asserting exit code 0."""
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout)
