"""Prepares the machine for a command: the other processes of the run, the platform of JAX, and the place of compiled programs."""

import jax

from bnext_jax.errors import UserError, one_line
from bnext_jax.io import compiled


def prepare(several: bool) -> None:
    """Joins the other processes of the run, starts the platform that JAX_PLATFORMS names, and lets JAX keep compiled programs.

    Args:
      several: whether the command may run in several processes.
    Raises:
      UserError: the processes do not find each other, or the platform is not installed or does not start.
      MachineLost: see cluster.join.
    """
    if several:
        from bnext_jax.training import cluster

        cluster.join()
    _check_platform()
    compiled.keep()


def _check_platform() -> None:
    named = jax.config.jax_platforms  # type: ignore[attr-defined]
    if not named:
        return
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # JAX has only an AssertionError for a platform that it knows but that is not installed
        told = str(error).partition(" (set JAX_PLATFORMS")[0]
        reason = "it is not installed" if isinstance(error, AssertionError) else one_line(told, 200)
        raise UserError(f"JAX_PLATFORMS is {named!r}, which does not start here ({reason}); unset it, or install JAX for it") from error


def problem(error: BaseException) -> str | None:
    """Returns a sentence if an error of JAX comes from the machine: a platform does not start, or the memory is too small. Else None."""
    if "Unable to initialize backend" in str(error):
        return f"JAX cannot compute here ({one_line(error, 200)}); set JAX_PLATFORMS=cpu to compute on the processor"
    if "RESOURCE_EXHAUSTED" in str(error):
        return f"the memory is too small ({one_line(error, 160)}); compute fewer or smaller images at once"
    return None
