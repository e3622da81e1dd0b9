"""What tests of commands share."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
SMOKE = "--config=configs/digits_student.py:smoke"


def refused(outcome, *parts):
    """The outcome of run() is exit code 2, no result, and a last line on standard error with all parts in it."""
    code, result, error = outcome
    assert (code, result) == (2, None), error
    line = error.strip().splitlines()[-1]
    assert line.startswith("bnext: ") and "Traceback" not in error
    for words in parts:
        assert words in line, line


def command(*words):
    """A real process in the repository's root; compiled programs are shared."""
    return subprocess.run([sys.executable, "main.py", *map(str, words)], capture_output=True, text=True, cwd=ROOT, check=False)


def result_of(done):
    """The JSON object on the only line of standard output."""
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout)
