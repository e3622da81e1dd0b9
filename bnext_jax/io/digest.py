"""Checksums of trees of arrays, on the host or sharded over the devices of several processes."""

import concurrent.futures
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


@functools.cache
def _gather(mesh: jax.sharding.Mesh) -> Callable[[jax.Array], jax.Array]:
    """One jitted function per mesh. A new function for each array would compile again at each save."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def on_host(leaf: Any) -> np.ndarray:
    """Copies a whole array to the host. If other processes hold parts of it, all processes must call this.

    Args:
      leaf: an array of the host or of the devices, or a number.
    """
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = _gather(leaf.sharding.mesh)(leaf)  # type: ignore[attr-defined]
    return np.ascontiguousarray(leaf)


def digest(tree: Any) -> str:
    """The sha256 of the paths, shapes, types and bytes of all arrays of a tree, as hexadecimal text. All processes must call it."""
    leaves = [(path, on_host(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]

    def of_leaf(item):
        path, array = item
        head = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode()
        return hashlib.sha256(head + hashlib.sha256(array.reshape(-1).view(np.uint8)).digest()).digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return hashlib.sha256(b"".join(pool.map(of_leaf, leaves))).hexdigest()


def comparable(tree: Any) -> str:
    """The first 16 digits of digest(tree), for a comparison between processes; "" with a single process, to save time."""
    return digest(tree)[:16] if jax.process_count() > 1 else ""
