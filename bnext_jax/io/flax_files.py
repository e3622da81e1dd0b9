"""Reads the trees that Flax writes as msgpack (flax.serialization), with Flax's own names and layouts.

The network's arrays are in collections, which may stand in a training state at any depth: its parameters, its running statistics, and the
bounds that layers with quantized inputs keep (AQT). Files come from strangers: Flax's own reader believes every size and type, so the
arrays are read here, after the library msgpack has taken the file apart.
"""

import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from bnext_jax.io.reading import Refused, at_least_float32, damage_told
from bnext_jax.io.torch.choice import few

log = logging.getLogger(__name__)
PARAMS = "params"
COLLECTIONS = (PARAMS, "batch_stats", "get_bounds")
MOMENTS = ("opt_state", "param_states")  # dicts of optimizers, which may hold copies of the collections
ARRAY, SCALAR = 1, 3  # Flax's extensions of msgpack
CHUNKED = "__msgpack_chunked_array__"  # a dict with this key is one large array: {CHUNKED: True, "shape": {...}, "chunks": {...}}
READ = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8"}  # Flax's name -> numpy's
WHOLE = {f"{sign}int{bits}": f"<{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
DEEPEST = 64  # dicts inside each other
AGAIN = "save it again with flax.serialization.to_bytes"


@dataclasses.dataclass(frozen=True)
class Packed:
    """An extension of msgpack: its number, and its bytes."""

    code: int
    data: bytes


def read(path: os.PathLike | str) -> dict[str, np.ndarray]:
    """Reads the network in a tree or a training state that Flax wrote. Logs what else is in it, which is left out.

    Args:
      path: what flax.serialization.to_bytes or flax.training.checkpoints wrote.
    Returns:
      {"params/LAYER/.../NAME": array, "batch_stats/...": array, "get_bounds/...": array}, as far as these collections exist. float16 and
      bfloat16 become float32.
    Raises:
      UserError: the file is damaged, has no parameters, or has a collection several times; or what a collection holds is not made of
        arrays of floats. A single whole number, as of a counter, is read too.
    """
    with damage_told(path):
        found, beside = _collections(_unpacked(pathlib.Path(path).read_bytes()))
        tensors: dict[str, np.ndarray] = {}
        for name, value in (pair for key, collection in found.items() for pair in _leaves(collection, (key,))):
            if name in tensors:
                raise Refused(f"has two arrays with the name {few([name])}; {AGAIN}")
            tensors[name] = _array(name, value)
    if beside:
        log.warning("%s: left out what is not of the network: %s", path, few(beside))
    return tensors


def _unpacked(data):
    def pairs(items):
        made = dict(items)
        if len(made) < len(items) or not all(isinstance(key, str) for key in made):
            raise ValueError("a dict has a key twice, or one that is no text")
        return made

    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()  # fails, without taking memory, if the file is shorter than its lists say
    return msgpack.unpackb(data, ext_hook=Packed, object_pairs_hook=pairs)


def _collections(tree):
    """Finds COLLECTIONS at any depth. Raises Refused if one is there several times, or if there are no parameters.

    Returns:
      ({"COLLECTION": its dict}, the places of everything else; of a dict without a collection, only its own).
    """
    if not isinstance(tree, dict):
        raise Refused(f"holds a {type(tree).__name__}, not a tree of Flax; {AGAIN}")
    found: list[tuple[tuple[str, ...], dict]] = []
    beside: list[str] = []

    def search(holder, place):
        """Whether a collection is in this dict."""
        others, hit = [], False
        for key, value in holder.items():
            here = (*place, key)
            if key in COLLECTIONS and isinstance(value, dict):
                found.append((here, value))
                hit = True
            elif isinstance(value, dict) and key not in MOMENTS and len(here) < DEEPEST and search(value, here):
                hit = True
            elif value not in (None, {}):
                others.append("/".join(here))
        if hit:
            beside.extend(others)
        return hit

    search(tree, ())
    places = {name: ["/".join(place) for place, _ in found if place[-1] == name] for name in COLLECTIONS}
    if not places[PARAMS]:
        raise Refused(f"holds no collection {PARAMS} (it has {few(tree)}); save the network's variables with flax.serialization.to_bytes")
    several = [place for same in places.values() if len(same) > 1 for place in same]
    if several:
        raise Refused(f"holds the collections of several networks: {few(several)}; save one of them alone")
    return {place[-1]: collection for place, collection in found}, beside


def _leaves(holder: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yields (name, value) of everything in a dict that is no dict, at any depth. A chunked array counts as one."""
    if len(place) > DEEPEST:
        raise ValueError(f"more than {DEEPEST} dicts inside each other")
    for key, value in holder.items():
        if isinstance(value, dict) and CHUNKED not in value:
            yield from _leaves(value, (*place, key))
        else:
            yield "/".join((*place, key)), value


def _array(name, value):
    """The array of an entry. Raises Refused if it is something else."""
    if isinstance(value, dict):
        shape, chunks = (_row(value[key]) for key in ("shape", "chunks"))
        parts = [_plain(name, chunk, True) for chunk in chunks]
        return np.concatenate(parts).reshape(_sizes(name, shape, sum(part.size for part in parts)))
    return _plain(name, value, False)


def _row(numbered):
    """The values of {"0": value, "1": value, ...}, in which Flax keeps a row."""
    return [numbered[str(i)] for i in range(len(numbered))]


def _sizes(name, shape, count):
    """The shape, if an array of that shape has `count` numbers."""
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) != count:
        raise ValueError(f"{name} does not have as many numbers as its shape says")
    return shape


def _plain(name, value, part):
    """The array in an extension of msgpack. part: whether it is a part of a chunked array."""
    if not isinstance(value, Packed) or value.code not in (ARRAY, SCALAR):
        kind = "complex" if isinstance(value, Packed) else type(value).__name__
        raise Refused(f"has entries that are no arrays: {few([name])} ({kind}); save it without them")
    shape, kind, data = msgpack.unpackb(value.data, raw=True, max_array_len=DEEPEST)
    dtype, single = kind.decode(), shape == [] and not part
    if dtype in WHOLE and not single:
        raise Refused(f"has whole numbers in place of weights: {few([name])}; save the network in float32")
    if dtype not in (*READ, *WHOLE):
        raise Refused(f"has arrays in {few([dtype])}, which are not read: {few([name])}; save the network in float32")
    array = np.frombuffer(data, (READ | WHOLE)[dtype])
    array = array.reshape(_sizes(name, shape, array.size))
    if dtype == "bfloat16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return at_least_float32(array)
