"""Checksums of trees of arrays, wherever their parts lie."""

import concurrent.futures
import functools
import hashlib

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


@functools.cache
def _gather(mesh):
    """One jitted function a mesh: another for each array would compile at each save."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def on_host(leaf):
    """An array on the host, also where other processes hold parts of it; then all processes must call it."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        leaf = _gather(leaf.sharding.mesh)(leaf)
    return np.ascontiguousarray(leaf)


def digest(tree):
    """sha256 over paths, shapes, types and bytes of all arrays of a tree, as hexadecimal text; all processes must call it."""
    leaves = [(path, on_host(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]

    def of_leaf(item):
        path, array = item
        head = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode()
        return hashlib.sha256(head + hashlib.sha256(array.reshape(-1).view(np.uint8)).digest()).digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return hashlib.sha256(b"".join(pool.map(of_leaf, leaves))).hexdigest()


def comparable(tree):
    """The beginning of digest(tree), to be compared between processes; "" where there is one alone, which need not spend the time."""
    return digest(tree)[:16] if jax.process_count() > 1 else ""
