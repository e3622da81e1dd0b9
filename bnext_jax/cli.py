"""The command line: bnext COMMAND [flags] [FILES].

The program reads a command and its flags, calls one function, and prints the result. Logs and progress go to standard error. The last
line on standard output is the result as one JSON object. Help does not import JAX.

Exit codes: 0 = success; 2 = a user's error, printed as one sentence; 3 = `plan` only: the run does not fit; 75 = start the same command
again: the run was told to stop (SIGTERM, Ctrl-C) and has saved, or another process was lost; 130 = interrupted by Ctrl-C (`train`: by a
second one). A traceback is a bug.
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
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from absl import flags

from bnext_jax.commands import help_texts
from bnext_jax.commands.flags import CONFIG, SWITCH, Flag
from bnext_jax.commands.table import COMMANDS
from bnext_jax.errors import MachineLost, Unreachable, UserError, nearest, one_line
from bnext_jax.host.cache import without_home
from bnext_jax.host.process import missing_package, program, restart_with_huge_pages, silence_abandoned, without_tpu

if TYPE_CHECKING:
    from bnext_jax.config import Config

AGAIN = 75  # exit code: start the same command again
HELP = ("-h", "-help", "--help")


def _or_none(parser: flags.ArgumentParser) -> flags.ArgumentParser:
    """Returns an absl parser like `parser` that also accepts None. Config.check() rejects None for fields that do not allow it."""

    class Parser(type(parser)):  # type: ignore[misc]
        def parse(self, argument: Any) -> Any:
            return None if argument in (None, "None") else super().parse(argument)

    return Parser()


class _DictParser(flags.ArgumentParser):
    """Parses a dict in Python syntax."""

    def parse(self, argument: Any) -> dict:
        value = ast.literal_eval(argument) if isinstance(argument, str) else argument
        if not isinstance(value, dict):
            raise ValueError(f"{argument!r} is not a dict")
        return value


def _define_config(values: flags.FlagValues, line: list[str]) -> None:
    """Defines the flag --config in `values`, and a flag for each field that `line` sets. A field may be None or a dict."""
    from ml_collections import config_flags

    for kind, parser in ((int, flags.IntegerParser()), (float, flags.FloatParser()), (str, flags.ArgumentParser())):
        config_flags.register_flag_parser_for_type(kind, _or_none(parser))
    config_flags.register_flag_parser_for_type(dict, _DictParser())
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)


def _unknown_field(line: Iterable[str]) -> str | None:
    """Returns an error message for the first word that sets an unknown field, or None. Called only after parsing has failed."""
    from bnext_jax.config import Config

    known = [name for name, *_ in help_texts.fields(Config())]
    set_by_words = [match[1] for match in map(re.compile(r"--?(?:no)?(config\.[\w.]+)").match, line) if match]
    for name in set_by_words:
        if name.startswith("config.model.extra."):
            return f"there is no field {name}; set the whole dict: --config.model.extra=\"{{'{name.split('.')[-1]}': VALUE}}\""
        if name not in known:
            return f"there is no field {name}{nearest(name, known)}"
    return None


def _values(command: str, line: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Parses a command's words: `line` is the program, then the words after the command.

    Returns:
      ({flag: value}, file names). A value is a text, a list, a bool, a Config or None (not given).
    """
    values = flags.FlagValues()  # not absl's global flags: main() may be called twice in one process
    for flag in COMMANDS[command].flags:
        if flag.kind == SWITCH:
            flags.DEFINE_boolean(flag.name, False, "", flag_values=values)
        elif flag.repeated:
            flags.DEFINE_multi_string(flag.name, None, "", flag_values=values)
        elif flag.kind == CONFIG and any(word.split("=")[0].lstrip("-") == "config" for word in line):
            _define_config(values, line)
        else:
            flags.DEFINE_string(flag.name, None, "", flag_values=values)
    values.set_gnu_getopt(True)  # flags may follow file names
    files = values(line)[1:]
    return {flag.name: values[flag.name].value for flag in COMMANDS[command].flags}, files


def _read(command: str, words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Calls _values. Raises UserError, with a message of one sentence, for every mistake."""
    # Shells expand "~" only at the beginning of a word; other paths are expanded where they are read.
    line = ["bnext", *(re.sub("^(--?config=)(~[^/:]*)", lambda found: found[1] + os.path.expanduser(found[2]), word) for word in words)]
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
    except Exception as error:  # a user's config file may raise anything
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(f"{command}: {place.filename}:{place.lineno}: {type(error).__name__}: {_sentence(error)}") from error


def _sentence(error: BaseException) -> str:
    """Returns an error's message on one line. If the message contains a traceback (from a config file), only its last line."""
    text = str(error).strip().strip('"')
    return one_line(text.splitlines()[-1] if "Traceback" in text else text, 1000)


def parse(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Parses a command line.

    Args:
      argv: the program, the command, then flags and file names.
    Returns:
      (command, keyword arguments of the command's function).
    Raises:
      UserError: anything that cannot be parsed.
    """
    command, *words = argv[1:] or [""]
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


def _known_command(word: str) -> None:
    """Raises UserError for an unknown command."""
    if word not in COMMANDS:
        raise UserError(f"unknown command {word!r}{nearest(word, COMMANDS)}; one of: {', '.join(COMMANDS)}")


def _argument(command: str, flag: Flag, value: Any) -> Any:
    """Converts a flag's value to what the command's function expects."""
    if value is None:
        return flag.default
    if flag.kind == SWITCH:
        return value
    if flag.kind == CONFIG:
        return _config(command, value).check()  # after all overrides are applied
    return tuple(flag.read(one) for one in value) if flag.repeated else flag.read(value)


def _config(command: str, value: Any) -> "Config":
    """Returns `value`, the result of a file's get_config(). Raises UserError if it is no Config or the file cannot be read."""
    from bnext_jax.config import Config

    if isinstance(value, Config):
        return value
    try:
        getattr(value, "batch_size", None)  # only here does ml_collections report a missing file
        told = f"get_config() gives a {type(value).__name__}, not a bnext_jax.Config"
    except OSError as error:
        told = _sentence(error)
    raise UserError(f"{command}: {told}")


def help_text(words: list[str]) -> str | None:
    """Returns the help that a command line asks for.

    Args:
      words: the command line without the program.
    Returns:
      The help, or None if the words do not ask for help.
    Raises:
      UserError: an unknown command, or flags that cannot be parsed.
    """
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


def call(command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Imports a command's function and calls it. Compiled programs are kept for the next start, see io.compiled.

    Args:
      command: a key of COMMANDS.
      arguments: keyword arguments of the function, from `parse`.
    Returns:
      The command's result.
    Raises:
      UserError: a package is missing, see machine.prepare, or the command's own error.
    """
    from bnext_jax.commands import machine  # imports JAX, which the help does not need

    spec = COMMANDS[command]
    try:
        machine.prepare(spec.several)
        return getattr(importlib.import_module(spec.module), spec.function)(**arguments)
    except ModuleNotFoundError as error:
        if told := missing_package(error):
            raise UserError(f"{command} {told}") from error
        raise
    except RuntimeError as error:
        if told := machine.problem(error):
            raise UserError(told) from error
        raise


def main(argv: list[str], out: TextIO | None = None) -> int:
    """Runs one command. The first process of a run prints the result as JSON.

    Args:
      argv: the program, the command, then flags and file names.
      out: where the result is printed. None = standard output.
    Returns:
      The exit code, see the module.
    """
    try:
        text = help_text(argv[1:])
        if text is not None:
            print(text, file=out or sys.stdout, flush=True)
            return 0
        command, arguments = parse(argv)
        result = call(command, arguments)
        code = result.pop("exit_code", 0)
        text = _json(result)
    except (MachineLost, Unreachable) as error:
        print(f"bnext: {error}", file=sys.stderr, flush=True)
        os._exit(AGAIN if isinstance(error, MachineLost) else 2)  # a normal exit would wait for the lost process or the bucket
    except UserError as error:
        print(f"bnext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bnext: interrupted", file=sys.stderr)
        return 130
    if _prints():
        print(text, file=out or sys.stdout, flush=True)
    return code


def _prints() -> bool:
    """Returns whether this process prints the result: the only process, or the first of several.

    Asks JAX for its devices only if several processes have joined.
    """
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def _json(result: Any) -> str:
    try:
        return json.dumps(result, allow_nan=False)
    except ValueError as error:
        raise UserError("the network computes numbers that are not finite; its weights are damaged or diverged") from error


def run() -> None:
    """Runs the command of sys.argv and exits with its code. `bnext`, `python -m bnext_jax` and main.py call this."""
    words = sys.argv[1:]
    if words and words[0] != "help" and not any(word in HELP for word in words):
        restart_with_huge_pages()
    without_tpu()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA raises its errors too, and logs 3000 characters for some loaded programs
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("bnext_jax").setLevel(logging.INFO)
    for library in ("absl", "asyncio", "concurrent.futures", "gcsfs"):  # they print tracebacks of errors that we report in one sentence
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # Orbax leaves coroutines behind when reading a file fails.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken metadata in photos; our own messages name what cannot be decoded
    silence_abandoned()
    without_home()
    result_file = os.fdopen(os.dup(1), "w")  # standard output, kept for the JSON line alone
    os.dup2(2, 1)  # what libraries print to standard output goes to standard error
    sys.exit(main(sys.argv, result_file))
