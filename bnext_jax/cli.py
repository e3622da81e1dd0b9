"""The command line: bnext COMMAND [flags] [FILES] reads a word and flags, calls one function, prints its result.

Logs and progress go to standard error; the last line on standard output is the result as one JSON object.
Exit code 0; 2 = a user's error, told in one sentence; 3 = plan: does not fit; 75 = start again: told to stop (SIGTERM) and saved, or
another process lost; 130 = interrupted twice; a traceback is a bug. Help starts without JAX.
"""

import ast
import importlib
import json
import logging
import os
import re
import sys
import traceback
import warnings

from absl import flags

from bnext_jax.commands import help_texts
from bnext_jax.commands.table import COMMANDS, CONFIG, SWITCH
from bnext_jax.errors import MachineLost, UserError, nearest, one_line
from bnext_jax.host.process import missing_package, program, restart_with_huge_pages, silence_abandoned, without_tpu

AGAIN = 75  # exit code: start the same command again
HELP = ("-h", "-help", "--help")


def _or_none(parser):
    """An absl parser like `parser` that also takes None; Config.check() refuses None where a field's type does."""

    class Parser(type(parser)):
        def parse(self, argument):
            return None if argument in (None, "None") else super().parse(argument)

    return Parser()


class _DictParser(flags.ArgumentParser):
    """A dict, written as Python writes it."""

    def parse(self, argument):
        value = ast.literal_eval(argument) if isinstance(argument, str) else argument
        if not isinstance(value, dict):
            raise ValueError(f"{argument!r} is no dict")
        return value


def _define_config(values, line):
    """The flag --config and one for each field that the line sets; None and dicts can be typed."""
    from ml_collections import config_flags

    for kind, parser in ((int, flags.IntegerParser()), (float, flags.FloatParser()), (str, flags.ArgumentParser())):
        config_flags.register_flag_parser_for_type(kind, _or_none(parser))
    config_flags.register_flag_parser_for_type(dict, _DictParser())
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)


def _unknown_field(line):
    """A sentence on the first word that sets a field which no configuration has, or None. Looked at when a line could not be read."""
    from bnext_jax.config import Config

    known = [name for name, *_ in help_texts.fields(Config())]
    set_by_words = [match[1] for match in map(re.compile(r"--?(?:no)?(config\.[\w.]+)").match, line) if match]
    for name in set_by_words:
        if name.startswith("config.model.extra."):
            return f"there is no field {name}; set the whole dict: --config.model.extra=\"{{'{name.split('.')[-1]}': VALUE}}\""
        if name not in known:
            return f"there is no field {name}{nearest(name, known)}"
    return None


def _values(command, line):
    """({flag: text, list, bool or Config}, [file]) of a command's words."""
    values = flags.FlagValues()  # its own, none global: main() may be called twice in a process
    for flag in COMMANDS[command].flags:
        if flag.kind == SWITCH:
            flags.DEFINE_boolean(flag.name, False, "", flag_values=values)
        elif flag.repeated:
            flags.DEFINE_multi_string(flag.name, None, "", flag_values=values)
        elif flag.kind == CONFIG and any(word.split("=")[0].lstrip("-") == "config" for word in line):
            _define_config(values, line)
        else:
            flags.DEFINE_string(flag.name, None, "", flag_values=values)
    values.set_gnu_getopt(True)  # flags may stand behind file names
    files = values(line)[1:]
    return {flag.name: values[flag.name].value for flag in COMMANDS[command].flags}, files


def _read(command, words):
    """_values, every mistake in one sentence."""
    line = ["bnext", *words]
    try:
        return _values(command, line)
    except UserError:
        raise
    except flags.UnrecognizedFlagError as error:
        known = [flag.name for flag in COMMANDS[command].flags]
        told = _unknown_field(words) if error.flagname.startswith("config.") else None
        told = told or f"{command} has no flag --{error.flagname}{nearest(error.flagname, known)}; it takes --{', --'.join(known)}"
        raise UserError(told) from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, ImportError) as error:
        unknown = _unknown_field(words) if isinstance(error, AttributeError | KeyError) else None
        raise UserError(unknown or f"{command}: {_sentence(error)}") from error
    except Exception as error:  # a config file of the user's may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{command}: {place.filename}:{place.lineno}: {type(error).__name__}: {_sentence(error)}") from error


def _sentence(error):
    """The message of an error on one line; of a traceback inside it (config files that fail) the last line."""
    text = str(error).strip().strip('"')
    return one_line(text.splitlines()[-1] if "Traceback" in text else text, 1000)


def parse(argv):
    """argv, the program first -> (command, its keyword arguments). Raises UserError for anything that cannot be understood."""
    command, *words = argv[1:]
    _known_command(command)
    given, files = _read(command, words)
    spec = COMMANDS[command]
    missing = [f"--{flag.name}" for flag in spec.flags if flag.needed and given[flag.name] is None]
    if missing:
        raise UserError(f"{command} needs {', '.join(missing)}; see `{program()} {command} --help`")
    if files and not spec.files:
        raise UserError(f"{command} takes no file names, got {' '.join(files)}")
    arguments = {flag.name: _argument(command, flag, given[flag.name]) for flag in spec.flags}
    return command, arguments | ({"files": files} if spec.files else {})


def _known_command(word):
    if word not in COMMANDS:
        raise UserError(f"unknown command {word!r}{nearest(word, COMMANDS)}; one of: {', '.join(COMMANDS)}")


def _argument(command, flag, value):
    """A flag's value as the command's function takes it."""
    if value is None:
        return flag.default
    if flag.kind == SWITCH:
        return value
    if flag.repeated:
        return tuple(flag.kind(flag.name, one) for one in value)
    if flag.kind != CONFIG:
        return flag.kind(flag.name, value)
    return _config(command, value).check()  # after the overrides


def _config(command, value):
    """The Config that a file's get_config() gave. Raises UserError for anything else, or where the file cannot be read."""
    from bnext_jax.config import Config

    if isinstance(value, Config):
        return value
    try:
        getattr(value, "batch_size", None)  # ml_collections tells only here that a file is not there
        told = f"get_config() gives a {type(value).__name__}, not a bnext_jax.Config"
    except OSError as error:
        told = _sentence(error)
    raise UserError(f"{command}: {told}")


def help_text(words):
    """The help that words ask for, or None where they ask for none. Raises UserError for an unknown command."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in HELP:
        return help_texts.overview(program())
    if not any(word in HELP for word in words[1:]):
        return None
    command, rest = words[0], [word for word in words[1:] if word not in HELP]
    _known_command(command)
    value = _read(command, rest)[0].get("config") if any(word.lstrip("-").startswith("config") for word in rest) else None
    return help_texts.of_command(program(), command, None if value is None else _config(command, value))


def call(command, arguments):
    """Imports a command's function and calls it. Raises UserError where a package is missing."""
    spec = COMMANDS[command]
    try:
        if spec.several:
            from bnext_jax.training import cluster

            cluster.join()
        return getattr(importlib.import_module(spec.module), spec.function)(**arguments)
    except ModuleNotFoundError as error:
        told = missing_package(error)
        if told is None:
            raise
        raise UserError(f"{command} {told}") from error


def main(argv, out=None):
    """Runs one command; the run's first process prints its result as JSON on `out` (standard output); returns the exit code."""
    try:
        text = help_text(argv[1:])
        if text is not None:
            print(text, file=out or sys.stdout, flush=True)
            return 0
        command, arguments = parse(argv)
        result = call(command, arguments)
        code = result.pop("exit_code", 0)
        text = _json(result)
    except UserError as error:
        print(f"bnext: {error}", file=sys.stderr)
        return 2
    except MachineLost as error:
        print(f"bnext: {error}", file=sys.stderr, flush=True)
        os._exit(AGAIN)  # leaving in order would wait for the process that is gone
    except KeyboardInterrupt:
        print("bnext: interrupted", file=sys.stderr)
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


def run():
    """The program `bnext`, `python -m bnext_jax` and main.py: runs the process's command and leaves with its exit code."""
    words = sys.argv[1:]
    if words and words[0] != "help" and not any(word in HELP for word in words):
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
