"""The device mesh and its shardings: batches are split over all devices, a training state is replicated or split over the axis "shard"."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bnext_jax.errors import UserError

AXES = ("data", "shard")


@dataclasses.dataclass(frozen=True)
class Shardings:
    """The mesh ("data", "shard") and the shardings of arrays on it.

    Every device computes on its own images. With shard > 1 the training state is split over the devices of that axis: the step gathers
    the parameters for the forward pass and scatters the gradients, and the optimizer of each device updates that device's part.

    Attributes:
      mesh: all devices, on the axes "data" and "shard".
      replicated: sharding of arrays that every device holds whole.
      batch: sharding of arrays whose first axis is the batch. That axis is split over all devices.
    """

    mesh: jax.sharding.Mesh
    replicated: NamedSharding
    batch: NamedSharding

    @property
    def devices(self) -> int:
        """Number of devices of all processes."""
        return self.mesh.size

    def of_state(self, tree: Any) -> Any:
        """The sharding of each array of a training state.

        An array is split along its longest axis that the size of "shard" divides. An array without such an axis is replicated, and so are
        vectors and scalars.

        Args:
          tree: arrays or shapes (anything with `shape`).
        Returns:
          The same tree, of NamedSharding.
        """
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), tree)

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        parts = self.mesh.shape["shard"]
        fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or len(shape) < 2 or not fitting:
            return PartitionSpec()
        longest = max(fitting, key=lambda axis: shape[axis])
        return PartitionSpec(*(None,) * longest, "shard")

    def put(self, tree: Any) -> Any:
        """Replicates a tree of host or device arrays on the mesh. Every process must give the same values."""
        return jax.tree.map(lambda leaf: placed(leaf, self.replicated), tree)

    def put_state(self, tree: Any) -> Any:
        """Puts a training state on the mesh, sharded as `of_state` says. Every process must give the same values."""
        return jax.tree.map(placed, tree, self.of_state(tree))

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Joins the rows of all processes to one global batch.

        Args:
          batch: {name: [local rows, ...]}, the rows of this process (see local_rows).
        Returns:
          {name: global array [batch size, ...]}, split over all devices.
        """
        return {name: jax.make_array_from_process_local_data(self.batch, np.asarray(rows)) for name, rows in batch.items()}

    def put_flag(self, value: float) -> jax.Array:
        """Writes this process's number to each of its devices; the step sums it over all devices.

        Returns:
          [devices], float32.
        """
        return jax.make_array_from_process_local_data(self.batch, np.full(len(self.mesh.local_devices), value, np.float32))

    def gathered(self, tree: Any) -> Any:
        """Inside jit: gathers a split tree, so that every device holds it whole."""
        return jax.lax.with_sharding_constraint(tree, self.replicated) if self.mesh.shape["shard"] > 1 else tree

    def split(self, tree: Any) -> Any:
        """Inside jit: splits a tree that has the shapes of a part of the state, as `of_state` says."""
        return jax.lax.with_sharding_constraint(tree, self.of_state(tree)) if self.mesh.shape["shard"] > 1 else tree

    def microbatches(self, batch: Mapping[str, jax.Array], count: int) -> Any:
        """Inside jit: cuts a batch into pieces. Each device cuts its own rows, in order, so no row moves to another device.

        Args:
          batch: {name: [N, ...]}.
          count: number of pieces; devices * count divides N.
        Returns:
          {name: [count, N / count, ...]}.
        """
        pieces = NamedSharding(self.mesh, PartitionSpec(None, AXES))

        def cut(rows):
            device, rest = self.devices, rows.shape[1:]
            size = rows.shape[0] // (device * count)
            piled = rows.reshape(device, count, size, *rest).swapaxes(0, 1).reshape(count, device * size, *rest)
            return jax.lax.with_sharding_constraint(piled, pieces)

        return jax.tree.map(cut, batch)

    def local_rows(self, batch_size: int) -> list[int]:
        """Indices of the rows of a global batch that this process's devices hold, ascending."""
        slices: Any = self.batch.addressable_devices_indices_map((batch_size,)).values()
        return sorted({row for (part,) in slices for row in range(*part.indices(batch_size))})


def placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Puts one array on the mesh.

    Args:
      leaf: an array of the host or of one device, with the same values in every process; or an array that lies on the mesh with
        another sharding.
      sharding: the sharding of the result.
    """
    if jax.process_count() == 1 or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)  # device_put would compare the values of every array between the processes
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def axis_sizes(text: str, devices: int) -> tuple[int, int]:
    """Reads a config's mesh.

    Args:
      text: "data=4,shard=2". An axis that is left out gets the rest of the devices; "" puts all devices on "data".
      devices: number of devices.
    Returns:
      (data, shard), the sizes of the two axes.
    Raises:
      UserError: an unknown word, or data * shard is not the number of devices.
    """
    sizes: dict[str, int] = {}
    for word in filter(None, text.replace(" ", "").split(",")):
        found = re.fullmatch(r"(data|shard)=([1-9][0-9]*)", word)
        if not found or found[1] in sizes:
            raise UserError(f"config.mesh {text!r} is not understood at {word!r}; write for example data=4,shard=2")
        sizes[found[1]] = int(found[2])
    if not sizes:
        sizes["shard"] = 1
    for name, other in (("data", "shard"), ("shard", "data")):
        if name not in sizes:
            sizes[name] = max(devices // sizes[other], 1)
    if math.prod(sizes.values()) != devices:
        raise UserError(
            f"config.mesh {text!r} needs {math.prod(sizes.values())} devices, there are {devices}; data * shard must be {devices}"
        )
    return sizes["data"], sizes["shard"]


def make_shardings(text: str = "", devices: Sequence[jax.Device] | None = None) -> Shardings:
    """Makes the mesh and its shardings.

    Args:
      text: the config's mesh, see axis_sizes; "" = all devices along "data".
      devices: None = the devices of all processes.
    Raises:
      UserError: see axis_sizes.
    """
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh(axis_sizes(text, len(devices)), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
    return Shardings(mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXES)))


def check_batch(name: str, batch_size: int, group: int | None, devices: int, pieces: int = 1) -> None:
    """Checks that a batch divides over the devices and pieces, and that each device's share fits the batch-norm groups.

    Args:
      name: the config's field of the batch size, for the message.
      batch_size: examples of all devices.
      group: examples that share batch statistics; None = the whole batch.
      devices: number of devices of all processes.
      pieces: config.accumulate.
    Raises:
      UserError: it does not divide or fit.
    """
    if batch_size % devices:
        raise UserError(f"config.{name} {batch_size} is not divisible by the {devices} devices; choose a multiple of {devices}")
    share = batch_size // devices
    if pieces > 1 and (share % pieces or not group or (share // pieces) % group):
        raise UserError(
            f"config.accumulate {pieces} would change the batch statistics: config.batch_norm_group ({group or 'the whole batch'})"
            f" must divide a device's examples of each piece ({share}/{pieces}); choose a smaller group or fewer pieces"
        )
    if group is not None and group % share and share % group:
        raise UserError(
            f"config.batch_norm_group {group} and the {share} examples of each device must divide one another;"
            f" choose a divisor or a multiple of {share}, or another config.{name}"
        )
