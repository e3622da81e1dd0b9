"""Finds the state dict of a known network inside what a PyTorch file holds: under any entries, and under any prefix of the tensors' names.

A file may hold several: averaged weights (EMA) beside the raw ones, a teacher beside its student. The averaged weights are taken, because
they are what the tools evaluate that write such files (timm, torchvision's references, Lightning's WeightAveraging). Any other choice
is the user's.
"""

import collections
import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from bnext_jax.errors import UserError, one_line
from bnext_jax.io.names.recognise import BEGINS
from bnext_jax.io.torch.objects import Odd, Tensor

log = logging.getLogger(__name__)
DEEPEST, DOTS = 8, 32  # how many dicts and lists inside each other are searched; how many parts of a prefix
AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged|shadow)([._]|$)", re.IGNORECASE)  # part of an entry's name or of a prefix
COUNTER = "n_averaged"  # a tensor that PyTorch's AveragedModel keeps beside the averaged weights
OPTIMIZER = re.compile(r"optimi[sz]er|(^|[._])optims?([._]|$)", re.IGNORECASE)  # an optimizer's averages have the names of the weights
# What a training checkpoint says beside the tensors: the epoch, the temperature (the name is that of the authors' code), and, in our files,
# the network as JSON
FACTS = EPOCH, TEMPERATURE, DESCRIBED = "epoch", "temp", "bnext_jax"
LIGHTNING = {"state_dict", "current_model_state"}  # Lightning's WeightAveraging: the first is averaged, the second is raw
EMA, RAW, TOP = "ema", "raw", "top"  # names for --weights; TOP: without any entry or prefix
NAMED, LONGEST = 6, 60  # names in a message, characters of a name


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of one network in a file.

    Attributes:
      path: the entries that lead to them.
      prefix: what stands before the network's own names, with a dot at the end; "" = nothing.
      entries: {the network's own name: what the file holds under it}.
      beside: the names of the tensors in the same dict that are of no known network.
      averaged: whether the file says that they are averaged.
      notes: {name: value} of FACTS, as far as they stand around the tensors.
    """

    path: tuple[str, ...]
    prefix: str
    entries: dict[str, Any]
    beside: tuple[str, ...]
    averaged: bool
    notes: dict[str, Any]

    @property
    def label(self) -> str:
        """The name for --weights."""
        return ".".join([*self.path, self.prefix]).strip(".") or TOP


def few(names: Any) -> str:
    """The first names of many, joined by commas, with the number of the rest."""
    names = list(names)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(one_line(name, LONGEST) for name in names[:NAMED]) + rest


def word(key: Any) -> str:
    """A key of a dict as text. A number of many digits has none: Python refuses to write it."""
    return str(key) if isinstance(key, str) or (type(key) is int and abs(key) < 2**63) else type(key).__name__


def _holders(content: Any) -> Iterator[tuple[tuple[str, ...], Any, dict]]:
    """Yields (path, dict or list, notes) of all dicts and lists, each once. Notes are the FACTS in and around it; the nearest win."""
    waiting: collections.deque[tuple[tuple[str, ...], Any, dict]] = collections.deque([((), content, {})])
    seen = {id(content)}
    while waiting:
        path, holder, notes = waiting.popleft()
        if not isinstance(holder, dict | list | tuple):
            continue
        items: Iterable[tuple[Any, Any]] = enumerate(holder)
        if isinstance(holder, dict):
            items = holder.items()
            notes = {**notes, **{fact: holder[fact] for fact in FACTS if fact in holder}}
        yield path, holder, notes
        for key, value in items:
            if isinstance(value, dict | list | tuple) and id(value) not in seen and len(path) < DEEPEST:
                seen.add(id(value))
                waiting.append(((*path, word(key)), value, notes))


def _tensors(holder: dict) -> list[str]:
    """The names of a dict's tensors."""
    return [name for name, value in holder.items() if isinstance(name, str) and isinstance(value, Tensor | Odd)]


def _in_dict(path: tuple[str, ...], holder: dict, notes: dict) -> Iterator[Weights]:
    """The Weights of each network in one dict. A name belongs to the longest prefix that it begins with."""
    tensors = _tensors(holder)
    parts: dict[str, dict[str, Any]] = {name[: begin.start(1)]: {} for name in tensors if (begin := BEGINS.search(name))}
    beside = []
    for name, value in holder.items():
        if not isinstance(name, str):
            continue
        ends = (0, *(dot.end() for dot in itertools.islice(re.finditer(r"\.", name), DOTS)))
        fitting = [name[:end] for end in ends if name[:end] in parts]
        if fitting:
            parts[fitting[-1]][name.removeprefix(fitting[-1])] = value
        elif isinstance(value, Tensor | Odd):
            beside.append(name)
    others = tuple(beside)  # once: a file may have many prefixes
    for prefix, own in parts.items():
        if not path:  # the facts of the training may stand between the tensors
            own = {name: value for name, value in own.items() if "." in name or isinstance(value, Tensor | Odd)}
        averaged = COUNTER in holder or bool(AVERAGED.search(".".join([*path, prefix])))
        yield Weights(path, prefix, own, others, averaged, notes)


def find(content: Any) -> list[Weights]:
    """The weights of every known network in what a file holds.

    Args:
      content: nested dicts and lists, with objects.Tensor or objects.Odd for tensors.
    """
    dicts = [(path, holder, notes) for path, holder, notes in _holders(content) if isinstance(holder, dict)]
    found = [weights for path, holder, notes in dicts for weights in _in_dict(path, holder, notes)]
    found = [weights for weights in found if not OPTIMIZER.search(".".join(weights.path))]
    if LIGHTNING.issubset(".".join(weights.path) for weights in found):
        found = [dataclasses.replace(weights, averaged=weights.path == ("state_dict",)) for weights in found]
    return found


def unknown(content: Any) -> Weights | None:
    """The dict with most tensors, for a file without a known network; None if no dict holds a tensor."""
    dicts = [(path, holder) for path, holder, _ in _holders(content) if isinstance(holder, dict) and _tensors(holder)]
    if not dicts:
        return None
    path, holder = max(dicts, key=lambda pair: len(_tensors(pair[1])))
    return Weights(path, "", {name: holder[name] for name in _tensors(holder)}, (), False, {})


def nameless(content: Any) -> bool:
    """Whether there are tensors anywhere, with a name or without."""
    inside = (value for _, holder, _ in _holders([content]) for value in (holder.values() if isinstance(holder, dict) else holder))
    return any(isinstance(value, Tensor | Odd) for value in inside)


def _named(name, found):
    """The weights that --weights may mean."""
    if name in (EMA, RAW):
        return [weights for weights in found if weights.averaged == (name == EMA)]
    return [weights for weights in found if name in (weights.label, weights.prefix.rstrip("."), ".".join(weights.path))] or [
        weights for weights in found if weights.label.endswith(f".{name}")
    ]


def _default(found):
    averaged = [weights for weights in found if weights.averaged]
    return averaged if len(found) == 2 and len(averaged) == 1 else found


def choose(path: os.PathLike | str, found: list[Weights], name: str | None) -> Weights:
    """Chooses the weights of a file, and logs what was chosen, cut from the names and left out.

    Args:
      path: the file, for messages.
      found: from `find`, one or more.
      name: EMA, RAW, or a label of one of them; None = the only ones, or the averaged ones of two.
    Raises:
      UserError: none or several fit.
    """
    fitting = _default(found) if name is None else _named(name, found)
    labels = few(weights.label + (" (averaged)" if weights.averaged else "") for weights in found)
    if not fitting:
        raise UserError(f"--weights is {name!r}, but {path} holds: {labels}")
    if len(fitting) > 1:
        raise UserError(f"{path} holds the weights of several networks: {labels}; choose one with --weights=NAME (of convert)")
    (chosen,) = fitting
    if len(found) > 1:
        log.warning("%s holds the weights of several networks: %s; took %s; --weights=NAME takes others", path, labels, chosen.label)
    if chosen.prefix:
        log.info("%s: the names of its tensors begin with %s, which is left out here", path, chosen.prefix)
    if chosen.beside:
        log.warning("%s: left out tensors that are not of the network: %s", path, few(chosen.beside))
    return chosen
