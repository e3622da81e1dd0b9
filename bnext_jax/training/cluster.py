"""Several processes as one run: how they find each other, and how they agree before expensive work begins."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bnext_jax.errors import MachineLost, Unreachable, UserError, one_line
from bnext_jax.host.process import on_tpu

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SHORTEST = 1024  # bytes; texts between processes are padded to at least this length


def join() -> None:
    """Makes this process one of a run's processes. Call it before anything asks for devices.

    On TPU VMs the processes find each other. Elsewhere three environment variables are needed: JAX_COORDINATOR_ADDRESS (host:port of
    process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. Without them, and without TPUs, this does nothing. Further calls do nothing.

    Raises:
      UserError: some of the variables are missing, or are not numbers, or JAX refuses them.
      MachineLost: the other processes do not answer in time.
    """
    if jax.distributed.is_initialized():
        return
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not given and not on_tpu():
        return
    arguments: dict[str, Any] = {}
    if given:
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            raise UserError(f"{', '.join(given)} are set without {', '.join(missing)}; set all three, in every process of the run")
        address, count, process = (given[name] for name in VARIABLES)
        try:
            arguments = {"coordinator_address": address, "num_processes": int(count), "process_id": int(process)}
        except ValueError as error:
            raise UserError(f"JAX_NUM_PROCESSES {count!r} and JAX_PROCESS_ID {process!r} must be whole numbers") from error
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM, which training.preemption handles
    try:
        jax.distributed.initialize(**arguments)
    except jax.errors.JaxRuntimeError as error:  # JAX waits five minutes for the other processes
        raise MachineLost(f"the processes of the run did not find each other in time ({one_line(error)}); start all of them") from error
    except (ValueError, RuntimeError) as error:  # for example a process id that is not below the number of processes
        raise UserError(f"the processes of the run did not find each other ({one_line(error)}); start all of them") from error


def is_first() -> bool:
    """Whether this is process 0, which writes files and prints results."""
    return jax.process_index() == 0


def texts(text: str) -> list[str]:
    """Gathers one text from every process, in the order of the processes. All processes must call it."""
    if jax.process_count() == 1:
        return [text]
    sent = text.encode()
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(sent)))).reshape(-1)
    room = max(SHORTEST, 1 << int(lengths.max() - 1).bit_length())  # powers of two, because each size compiles one program
    padded = np.frombuffer(sent.ljust(room, b"\0"), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)
    return [bytes(row[:length]).decode() for row, length in zip(gathered, lengths, strict=True)]


def agree(work: Callable[[], Any]) -> Any:
    """Calls work() in every process. If it raises in one process, all processes raise.

    A process that stopped alone would leave the others waiting for it. All processes must call this.

    Args:
      work: a function without arguments.
    Returns:
      The result of work() in this process.
    Raises:
      Exception: whatever work() raises in this process.
      UserError: work() raised in another process; Unreachable if it raised that there.
    """
    result, problem, text = None, None, ""
    try:
        result = work()
    except Exception as error:
        problem, text = error, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
    told = [json.loads(one) for one in texts(json.dumps([text, isinstance(problem, Unreachable)]))]
    if problem is not None:
        raise problem
    for process, (other, unreachable) in enumerate(told):
        if other:
            raise (Unreachable if unreachable else UserError)(f"process {process} of {len(told)} stopped: {other}")
    return result


def check_equal(facts: Mapping[str, Any]) -> None:
    """Checks that `facts` are the same in all processes. All processes must call it.

    Args:
      facts: {name: JSON value}, with the same names in all processes.
    Raises:
      UserError: in all processes, if a value differs; the message names the fact and both values.
    """
    told = [json.loads(text) for text in texts(json.dumps(facts, sort_keys=True))]
    for process, other in enumerate(told):
        differing = [f"{name} ({told[0][name]!r} and {other[name]!r})" for name in told[0] if other[name] != told[0][name]]
        if differing:
            raise UserError(
                f"processes 0 and {process} do not run the same: {', '.join(differing)}; make them equal and start all processes again"
            )
