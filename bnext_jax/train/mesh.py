"""Devices and how data lie on them: the batch split over "data", everything else replicated."""

import dataclasses

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bnext_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Shardings:
    """replicated: for state and teachers. batch: for arrays whose first axis is the batch."""

    mesh: jax.sharding.Mesh
    replicated: NamedSharding
    batch: NamedSharding

    def put(self, tree):
        """A tree of host or device arrays, replicated on the mesh."""
        return jax.device_put(tree, self.replicated)

    def put_batch(self, batch):
        """{name: the rows [local rows, ...] of this process} -> {name: global array}, split over the mesh."""
        return {name: jax.make_array_from_process_local_data(self.batch, np.asarray(rows)) for name, rows in batch.items()}

    def local_rows(self, batch_size):
        """Indices of the rows of a global batch that this process's devices hold, in order."""
        slices = self.batch.addressable_devices_indices_map((batch_size,)).values()
        return sorted({row for (part,) in slices for row in range(*part.indices(batch_size))})


def make_shardings():
    """One axis, "data", over all devices of all processes."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return Shardings(mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data")))


def check_batch(name, batch_size, group, devices):
    """Raises UserError unless the batch divides over the devices and the devices' shares fit the batch-norm groups.

    name: the field, for the message. group: examples that share statistics, None = all.
    """
    if batch_size % devices:
        raise UserError(f"config.{name} {batch_size} is not divisible by the {devices} devices; choose a multiple of {devices}")
    share = batch_size // devices
    if group is not None and group % share and share % group:
        raise UserError(
            f"config.batch_norm_group {group} and the {share} examples of each device must divide one another;"
            f" choose a divisor or a multiple of {share}, or another config.{name}"
        )
