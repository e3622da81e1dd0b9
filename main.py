"""python main.py COMMAND [flags] [FILES]: reads a word and flags, calls one function, prints its result.

Logs and progress go to standard error; the last line on standard output is the result as one JSON object.
Exit code 0; 2 = a user's error, told in one sentence; 75 = start again: told to stop (SIGTERM) and saved, or another process lost;
130 = interrupted twice; a traceback is a bug.
"""

import json
import logging
import os
import sys
import traceback
import warnings

from absl import flags
from ml_collections import config_flags

from bnext_jax.errors import MachineLost, UserError
from bnext_jax.host.process import restart_with_huge_pages, silence_abandoned, without_tpu


def _train(config, workdir):
    from bnext_jax.train import cluster

    cluster.join()
    from bnext_jax.train.loop import train

    return train(config, workdir)


def _evaluate(checkpoint, **arguments):
    from bnext_jax.train import cluster

    cluster.join()
    from bnext_jax.commands.evaluate import evaluate

    return evaluate(checkpoint, **arguments)


def _predict(files, checkpoint=None, model=None):
    from bnext_jax.commands.predict import predict

    return predict(files, checkpoint, model)


def _convert(source, output, model=None, gate_bits=None):
    from bnext_jax.commands.convert import exchange

    return exchange(source, output, model, gate_bits)


def _prepare(config, source, manual_dir):
    from bnext_jax.data.prepare import prepare

    return prepare(config.data, source, manual_dir)


def _count(**arguments):
    from bnext_jax.analysis.count import count

    return count(**arguments)


def _plan(config, topology, **switches):
    from bnext_jax.commands.plan import plan

    return plan(config, topology, **switches)


def _plot(files, **arguments):
    from bnext_jax.plot import plot

    return plot(files, **arguments)


def _quickstart(workdir, seed):
    from bnext_jax.commands.quickstart import quickstart

    return quickstart(workdir, seed)


AGAIN = 75  # exit code: start the same command again

# command -> (function, {flag: whether it must be given}, takes words or files)
COMMANDS = {
    "train": (_train, {"config": True, "workdir": True}, False),
    "evaluate": (_evaluate, {"checkpoint": True, "config": False, "predictions": False, "gate_bits": False}, False),
    "predict": (_predict, {"checkpoint": False, "model": False}, True),
    "convert": (_convert, {"source": True, "output": True, "model": False, "gate_bits": False}, False),
    "prepare": (_prepare, {"config": True, "source": False, "manual_dir": False}, False),
    "count": (
        _count,
        dict.fromkeys(("checkpoint", "model", "widths", "classes", "resolution", "gate_bits", "per_layer", "output"), False),
        False,
    ),
    "plan": (_plan, {"config": True, "topology": True, "fit": False, "quick": False}, False),
    "plot": (_plot, dict.fromkeys(("workdir", "config", "checkpoint", "layers", "output"), False), True),
    "quickstart": (_quickstart, {"workdir": False, "seed": False}, False),
}
SWITCHES = ("per_layer", "fit", "quick")  # flags without a value
REPEATED = ("topology",)


def _define(name, values, line):
    """One flag on a command's own FlagValues, so that main() can be called twice in a process."""
    if name in SWITCHES:
        flags.DEFINE_boolean(name, False, "", flag_values=values)
    elif name in REPEATED:
        flags.DEFINE_multi_string(name, None, "", flag_values=values)
    elif name != "config":
        flags.DEFINE_string(name, None, "", flag_values=values)
    elif any(word.split("=")[0].lstrip("-") == "config" for word in line):
        config_flags.DEFINE_config_file(name, flag_values=values, sys_argv=line)
    else:
        flags.DEFINE_string(name, None, "", flag_values=values)


def _sentence(error):
    """The message of an error on one line; of a traceback inside it (config files that fail) the last line."""
    text = str(error).strip().strip('"')
    return " ".join(text.splitlines()[-1].split() if "Traceback" in text else text.split())


def parse(argv):
    """argv -> (function, its keyword arguments). Raises UserError for anything that cannot be understood."""
    if len(argv) < 2 or argv[1] not in COMMANDS:
        given = f"unknown command {argv[1]!r}" if len(argv) > 1 else "a command is missing"
        raise UserError(f"{given}; one of: {', '.join(COMMANDS)}")
    command = argv[1]
    function, names, takes_files = COMMANDS[command]
    line, values = [argv[0], *argv[2:]], flags.FlagValues()
    for name in names:
        _define(name, values, line)
    values.set_gnu_getopt(True)  # flags may stand behind file names
    try:
        files = values(line)[1:]
        given = {name: values[name].value for name in names}
        missing = [f"--{name}" for name, needed in names.items() if needed and given[name] is None]
        if missing:
            raise UserError(f"{command} needs {', '.join(missing)}")
        if given.get("config") is not None:
            given["config"].check()  # after the overrides; a config file that cannot be read shows here
    except UserError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, ImportError) as error:
        raise UserError(f"{command}: {_sentence(error)}") from error
    except Exception as error:  # a config file of the user's may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{command}: {place.filename}:{place.lineno}: {type(error).__name__}: {_sentence(error)}") from error
    if files and not takes_files:
        raise UserError(f"{command} takes no file names, got {' '.join(files)}")
    return function, given | ({"files": files} if takes_files else {})


def main(argv, out=None):
    """Runs one command; the run's first process prints its result as JSON on `out` (standard output); returns the exit code."""
    try:
        function, arguments = parse(argv)
        result = function(**arguments)
        code = result.pop("exit_code", 0)
        text = _json(result)
    except UserError as error:
        print(f"main.py: {error}", file=sys.stderr)
        return 2
    except MachineLost as error:
        print(f"main.py: {error}", file=sys.stderr, flush=True)
        os._exit(AGAIN)  # leaving in order would wait for the process that is gone
    except KeyboardInterrupt:
        print("main.py: interrupted", file=sys.stderr)
        return 130
    if _prints():
        print(text, file=out or sys.stdout, flush=True)
    return code


def _prints():
    """Whether this process is a run's first, or alone; asks for devices only where several processes have joined."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def _json(result):
    try:
        return json.dumps(result, allow_nan=False)
    except ValueError as error:
        raise UserError("the network computes numbers that are not finite; its weights are damaged or diverged") from error


if __name__ == "__main__":
    restart_with_huge_pages()
    without_tpu()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("bnext_jax").setLevel(logging.INFO)
    for library in ("absl", "asyncio", "concurrent.futures"):  # they print tracebacks of errors that we tell in one sentence
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # what Orbax leaves where a file fails
    silence_abandoned()
    result_file = os.fdopen(os.dup(1), "w")  # keep standard output for the JSON line alone;
    os.dup2(2, 1)  # whatever a library prints there goes to standard error
    sys.exit(main(sys.argv, result_file))
