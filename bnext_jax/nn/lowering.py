"""Which form of a computation a platform gets."""

from jax import lax


def choose(cpu, default, *operands):
    """cpu(*operands) where the program is compiled for a CPU, default(*operands) elsewhere.

    The choice falls at lowering time, so that compiling for a TPU on a machine without one gives the TPU's program.
    """
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
