"""Reads the weights in Keras' HDF5 files, with Keras' own names and layouts. Needs h5py, but neither Keras nor TensorFlow.

A file has a group for each layer, and two kinds of lists: `layer_names` of all layers, and `weight_names` of each layer's weights. The file
of a whole model has all this in its group `model_weights`. Files come from strangers: a process of its own lists what is in one
(io.hdf5_child). Only arrays that lie in one piece in the file itself are taken, so a small file cannot grow, and nothing leads to others.
"""

import collections
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable

import numpy as np

from bnext_jax.errors import UserError, one_line
from bnext_jax.host.process import needs
from bnext_jax.io import hdf5_child
from bnext_jax.io.reading import Refused, at_least_float32, damage_told
from bnext_jax.io.torch.choice import few

log = logging.getLogger(__name__)
WHOLE, TOP = "model_weights", "top_level_model_weights"  # groups: the weights in the file of a whole model; the weights of no layer
LAYERS, WEIGHTS = "layer_names", "weight_names"
NEW_LAYOUT = {"layers", "_layer_checkpoint_dependencies"}  # groups in the .weights.h5 of Keras 3
AS_H5, AGAIN = 'load the network in Keras and save it with model.save("NAME.h5")', "save it again with Keras"


def read(path: os.PathLike | str) -> dict[str, np.ndarray]:
    """Reads the weights in a file of Keras.

    Args:
      path: what `save_weights` of Keras 1 and 2, or `save` of a whole model, wrote as .h5.
    Returns:
      {"LAYER/WEIGHT": array in Keras' layout}, in the file's order: HWIO for convolutions, IO for dense layers. float16 becomes float32.
    Raises:
      UserError: the file is damaged or of another layout; its lists and its arrays differ; a link leads elsewhere; or an array is not
        made of floats in one piece. A single whole number, as of a counter, is read too.
    """
    listing = _listing(path)
    with damage_told(path):
        root, beside = _root(listing)
        places = _named(listing, root)
        _check({place: listing[place][1] for place in places.values()}, os.path.getsize(path))
        with open(path, "rb") as file:
            tensors = {name: _array(file, listing[place][1]) for name, place in places.items()}
    if beside:
        log.warning("%s: left out what is not of the network: %s", path, few(beside))
    return tensors


def _listing(path):
    """What hdf5_child found, as {names from the root on: (kind, facts)}."""
    words = [sys.executable, "-P", hdf5_child.__file__, os.path.abspath(path)]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=False)
    if done.returncode == hdf5_child.MISSING:
        raise UserError(f"{path} {needs('h5py')}")
    with damage_told(path):
        if done.returncode < 0:
            raise ValueError(f"the HDF5 library was stopped by {signal.Signals(-done.returncode).name}")
        if done.returncode:
            raise ValueError(f"its reader ended with code {done.returncode}: {one_line(done.stderr[-200:].decode(errors='replace'))}")
        found = json.loads(done.stdout)
        if isinstance(found, str):
            raise ValueError(found)
        return {tuple(place): (kind, facts) for place, kind, facts in found}


def _told(places: Iterable[tuple[str, ...]]) -> str:
    return few("/".join(place) or "its root" for place in places)


def _root(listing):
    """The place of the weights, and the names of what stands beside them. Raises Refused if there are none."""
    names = [place[0] for place in listing if len(place) == 1]
    if any(attribute.startswith(LAYERS) for attribute in listing[()][1]):
        return (), []
    if WHOLE in names:
        return (WHOLE,), [name for name in names if name != WHOLE]
    if NEW_LAYOUT & set(names):
        raise Refused(f"has the layout of .weights.h5 in Keras 3, which numbers the weights in place of naming them; {AS_H5}")
    raise Refused(f"is an HDF5 file, but holds no weights of Keras: neither {LAYERS} nor {WHOLE}; {AS_H5}")


def _list_of(listing, place, attribute):
    """The names in an attribute of a group. Keras cuts a long list into parts: NAME0, NAME1, ..."""
    kind, facts = listing.get(place, ("missing", None))
    if kind != "group":
        raise Refused(f"has no group {_told([place])}, which it lists; it is damaged: {AGAIN}")
    parts = [part for part in facts if re.fullmatch(rf"{attribute}\d+", part)]
    parts = [attribute] if attribute in facts else sorted(parts, key=lambda part: int(part.removeprefix(attribute)))
    if not parts or None in [facts[part] for part in parts]:
        raise Refused(f"has no list of names in {attribute} of {_told([place])}; {AGAIN}")
    return [name for part in parts for name in facts[part]]


def _named(listing, root):
    """Finds the arrays of the weights. Raises Refused if the lists do not name each array exactly once.

    Returns:
      {"LAYER/WEIGHT": place}.
    """
    inside = {place: kind for place, (kind, _) in listing.items() if place[: len(root)] == root}
    for place, kind in inside.items():
        if kind == "again":
            raise Refused(f"has two links to the same object, one of them at {_told([place])}; {AGAIN}")
        if kind not in ("group", "dataset"):
            raise Refused(f"is not read: {_told([place])} in it is a link or a type ({kind}), no group and no array; {AGAIN}")
    layers = _list_of(listing, root, LAYERS)
    found = []
    for layer in [*layers, *([TOP] if (*root, TOP) in inside and TOP not in layers else [])]:
        place = (*root, *layer.split("/"))
        found += [(_name(layer, weight), (*place, *weight.split("/"))) for weight in _list_of(listing, place, WEIGHTS)]
    names, places = [name for name, _ in found], {place for _, place in found}
    twice = [name for name, count in collections.Counter([*layers, *names]).items() if count > 1]
    if twice:
        raise Refused(f"lists several times: {few(twice)}; {AGAIN}")
    missing = [place for _, place in found if inside.get(place) != "dataset"]
    if missing:
        raise Refused(f"lists weights that it does not hold: {_told(missing)}; it is damaged: {AGAIN}")
    unlisted = [place for place, kind in inside.items() if kind == "dataset" and place not in places]
    if unlisted:
        raise Refused(f"holds arrays that it does not list: {_told(unlisted)}; {AGAIN}")
    if not found:
        raise Refused(f"holds no weights; {AS_H5}")
    return dict(found)


def _name(layer, weight):
    """A weight's name with the layer's name once, and without what Keras puts around it: the model's name, the layer again, and ":0"."""
    weight = weight.removesuffix(":0")
    _, found, own = f"/{weight}".rpartition(f"/{layer}/")
    return f"{layer}/{own if found else weight}"


def _check(facts, size):
    """Raises Refused unless all arrays are floats, or single whole numbers, that lie in one piece in a file of `size` bytes."""
    odd = [place for place, fact in facts.items() if fact["type"] is None or fact["shape"] is None]
    if odd:
        raise Refused(f"has entries that are no arrays of plain numbers: {_told(odd)}; {AGAIN}")
    whole = [place for place, fact in facts.items() if fact["type"][1] != "f" and fact["shape"] != []]
    if whole:
        raise Refused(f"has whole numbers in place of weights: {_told(whole)}; save the network in float32")
    for place, fact in facts.items():
        if fact["layout"] != "contiguous":
            raise Refused(
                f"keeps {_told([place])} {fact['layout']}, not in one piece;"
                " load it in Keras and save it again, or use h5repack -f NONE -l CONTI"
            )
    left = size
    for place, fact in facts.items():
        fact["bytes"] = math.prod(fact["shape"]) * np.dtype(fact["type"]).itemsize
        left -= fact["bytes"]
        if fact["bytes"] and fact["offset"] is None:
            raise Refused(f"has no values for {_told([place])}: they were never written; {AGAIN}")
        if left < 0 or (fact["offset"] or 0) + fact["bytes"] > size:
            raise Refused(f"has fewer bytes than {_told([place])} needs; it is truncated or damaged: fetch it again")


def _array(file, fact):
    file.seek(fact["offset"] or 0)
    kind = np.dtype(fact["type"])
    array = np.frombuffer(file.read(fact["bytes"]), kind).reshape(fact["shape"])
    return at_least_float32(array.astype(kind.newbyteorder("="), copy=False))
