"""Real processes that start fast: one that has imported everything forks one for each command.

`Launcher` is the test's side; `python -m tests.helpers.launcher` is the process that forks, before JAX has made any client.
"""

import importlib
import json
import os
import socket
import subprocess
import sys

from tests.helpers.commands import ROOT

EVERYTHING = ("bnext_jax.training.loop", "bnext_jax.commands.evaluate", "tensorflow_datasets", "orbax.checkpoint", "clu.metrics")


class Launcher:
    """Starts commands; use as a context manager."""

    def __enter__(self):
        command = [sys.executable, "-m", "tests.helpers.launcher"]
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def ask(self, **request):
        """One request, one answer of the process that forks."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, words, output, environment=None, settings=None, module="main"):
        """The process id of `python main.py WORDS`, or of `python -m MODULE WORDS`.

        Args:
          words: str() of each is passed. output: a path, to which .out and .err are added. environment: more of it. settings: of
          jax.config, {name: value}. module: has main(*words) that returns None.
        """
        line = [str(word) for word in words]
        return self.ask(words=line, output=str(output), environment=environment or {}, settings=settings or {}, module=module)

    def end(self, pid):
        """Waits for a process; returns its exit code, -N where signal N ended it."""
        return self.ask(wait=pid)


def free_port():
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def fork(words, output, environment, settings, module):
    """The child's process id; the child never returns."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(output + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(2, 1)
    result = open(output + ".out", "w")  # noqa: SIM115  as main.py does, the result's own
    code = 70
    try:
        import logging

        import jax

        from bnext_jax import cli as program

        os.environ.update(environment)
        for name, value in settings.items():
            jax.config.update(name, value)
        logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
        logging.getLogger("bnext_jax").setLevel(logging.INFO)
        code = program.main(["bnext", *words], result) if module == "main" else importlib.import_module(module).main(*words) or 0
        if jax.distributed.is_initialized():
            jax.distributed.shutdown()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve():
    """Forks and waits, as asked on standard input, until it is closed."""
    for name in EVERYTHING:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = fork(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
