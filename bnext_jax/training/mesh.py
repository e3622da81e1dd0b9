"""Devices and how data lie on them: the batch split over all of them, the state replicated or split over the axis "shard"."""

import dataclasses
import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bnext_jax.errors import UserError

AXES = ("data", "shard")


@dataclasses.dataclass(frozen=True)
class Shardings:
    """The mesh ("data", "shard"), and the shardings of whole arrays (`replicated`) and of arrays whose first axis is the batch (`batch`).

    Every device computes on its own images. With shard > 1 the training state lies split over the devices of that axis: parameters are
    gathered for the forward pass, gradients are scattered, and the optimizer works on its share.
    """

    mesh: jax.sharding.Mesh
    replicated: NamedSharding
    batch: NamedSharding

    @property
    def devices(self):
        """Number of devices of all processes."""
        return self.mesh.size

    def of_state(self, tree):
        """The sharding of each array of a training state: its longest axis that "shard" divides is split, vectors are whole."""
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), tree)

    def _spec(self, shape):
        parts = self.mesh.shape["shard"]
        fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or len(shape) < 2 or not fitting:
            return PartitionSpec()
        longest = max(fitting, key=lambda axis: shape[axis])
        return PartitionSpec(*(None,) * longest, "shard")

    def put(self, tree):
        """A tree of host or device arrays, the same in every process, replicated on the mesh."""
        return jax.tree.map(lambda leaf: placed(leaf, self.replicated), tree)

    def put_state(self, tree):
        """A training state, the same in every process, on the mesh as `of_state` says."""
        return jax.tree.map(placed, tree, self.of_state(tree))

    def put_batch(self, batch):
        """{name: the rows [local rows, ...] of this process} -> {name: global array}, split over the mesh."""
        return {name: jax.make_array_from_process_local_data(self.batch, np.asarray(rows)) for name, rows in batch.items()}

    def put_flag(self, value):
        """This process's number, as an array of one element a device; the step sums it over all."""
        return jax.make_array_from_process_local_data(self.batch, np.full(len(self.mesh.local_devices), value, np.float32))

    def gathered(self, tree):
        """Inside jit: a split tree, whole on every device."""
        return jax.lax.with_sharding_constraint(tree, self.replicated) if self.mesh.shape["shard"] > 1 else tree

    def split(self, tree):
        """Inside jit: a tree shaped like a part of the state, laid out like it."""
        return jax.lax.with_sharding_constraint(tree, self.of_state(tree)) if self.mesh.shape["shard"] > 1 else tree

    def microbatches(self, batch, count):
        """Inside jit: {name: [N,...]} -> {name: [count, N/count, ...]}; every device's rows stay on it, in consecutive pieces."""
        pieces = NamedSharding(self.mesh, PartitionSpec(None, AXES))

        def cut(rows):
            device, rest = self.devices, rows.shape[1:]
            size = rows.shape[0] // (device * count)
            piled = rows.reshape(device, count, size, *rest).swapaxes(0, 1).reshape(count, device * size, *rest)
            return jax.lax.with_sharding_constraint(piled, pieces)

        return jax.tree.map(cut, batch)

    def local_rows(self, batch_size):
        """Indices of the rows of a global batch that this process's devices hold, in order."""
        slices = self.batch.addressable_devices_indices_map((batch_size,)).values()
        return sorted({row for (part,) in slices for row in range(*part.indices(batch_size))})


def placed(leaf, sharding):
    """An array on the mesh: of the host or of one device, the same in every process; or one that lies on the mesh otherwise."""
    if jax.process_count() == 1 or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)  # device_put would compare every array between the processes
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def axis_sizes(text, devices):
    """(data, shard) of a config's mesh, "data=4,shard=2", either of them left out or "" for the rest of the devices.

    Raises:
      UserError: another word, or a product that is not the number of devices.
    """
    sizes = {}
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
        raise UserError(f"config.mesh {text!r} makes {math.prod(sizes.values())} devices, there are {devices}; data * shard must be that")
    return sizes["data"], sizes["shard"]


def make_shardings(text="", devices=None):
    """The mesh over devices, None = those of all processes; see axis_sizes; "" = all of them along "data"."""
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh(axis_sizes(text, len(devices)), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
    return Shardings(mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXES)))


def check_batch(name, batch_size, group, devices, pieces=1):
    """Raises UserError unless the batch divides over the devices (and pieces) and the shares fit the batch-norm groups.

    name: the field, for the message. group: examples that share statistics, None = all. pieces: config.accumulate.
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
