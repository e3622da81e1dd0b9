"""Starts real processes fast: a server process imports everything once, then forks a child for each command.

`Launcher` is the test's side. `python -m tests.helpers.launcher` is the server. The server never creates a JAX client, so forking is safe.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import time
import traceback

from tests.helpers.commands import ROOT

EVERYTHING = ("bnext_jax.training.loop", "bnext_jax.commands.evaluate", "tensorflow_datasets", "orbax.checkpoint", "clu.metrics")


class Launcher:
    """Starts commands. Use it as a context manager."""

    def __enter__(self):
        command = [sys.executable, "-m", "tests.helpers.launcher"]
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def ask(self, **request):
        """Sends one request to the server and returns its answer."""
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, words, output, environment=None, settings=None, module="main"):
        """Starts `python main.py WORDS`, or main(*WORDS) of another module. Returns the process id.

        Args:
          words: the arguments; str() of each is passed.
          output: a path. The result goes to OUTPUT.out, everything else that the process prints to OUTPUT.err.
          environment: {name: value}, environment variables to add.
          settings: {name: value}, of jax.config.
          module: a module with main(*words) that returns None or an exit code.
        """
        line = [str(word) for word in words]
        return self.ask(words=line, output=str(output), environment=environment or {}, settings=settings or {}, module=module)

    def end(self, pid):
        """Waits for a process and returns its exit code; -N if signal N ended it."""
        return self.ask(wait=pid)


def free_port():
    """Returns a TCP port of this machine that no process listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait_for(condition, seconds=120):
    """Waits until condition() is true. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def fork(words, output, environment, settings, module):
    """Forks a child that runs a command. Returns the child's process id; the child never returns."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(output + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(2, 1)
    result = open(output + ".out", "w")  # noqa: SIM115  a stream for the result alone, as in cli.run
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
    except Exception:  # os._exit below would swallow it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve():
    """The server: forks and waits as standard input requests, until standard input is closed."""
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
