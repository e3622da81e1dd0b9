"""Reads the structure of a pickle without running anything that it names.

Python's own unpicklers call functions that the file names. This reader calls none: it knows dicts, lists, tuples, texts, numbers, bytes
and the tensors of PyTorch, and puts an `Inert` in place of every other object. The standard module pickletools splits the bytes into
instructions, and bounds every length by the bytes that there are.
"""

import pickletools
from collections.abc import Callable
from typing import Any, Protocol

from bnext_jax.io.torch.objects import Inert, Named, Odd, Tensor, call, key_of, storage, typed


class _Machine:
    """The stack of a pickle. Its methods are the instructions that do more than to push a value."""

    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        pop, group, push, stack = self.stack.pop, self.group, self.stack.append, self.stack
        self.does: dict[str, Callable[[Any], Any]] = {
            "MARK": lambda _: self.marks.append(len(stack)),
            "POP": lambda _: self.marks.pop() if self.marks and self.marks[-1] == len(stack) else pop(),
            "POP_MARK": lambda _: group(),
            "DUP": lambda _: push(stack[-1]),
            "TUPLE": lambda _: push(tuple(group())),
            "TUPLE1": lambda _: push((pop(),)),
            "TUPLE2": lambda _: self.tuple_of(2),
            "TUPLE3": lambda _: self.tuple_of(3),
            "EMPTY_TUPLE": lambda _: push(()),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_SET": lambda _: self.inert("builtins.set"),
            "LIST": lambda _: push(group()),
            "DICT": lambda _: self.fill({}, group(), push),
            "FROZENSET": lambda _: self.inert("builtins.frozenset", group()),
            "APPEND": lambda _: self.extend([pop()]),
            "APPENDS": lambda _: self.extend(group()),
            "SETITEM": lambda _: self.fill_top([pop(), pop()][::-1]),
            "SETITEMS": lambda _: self.fill_top(group()),
            "ADDITEMS": lambda _: self.ignore(group()),
            "BUILD": lambda _: self.build(pop()),
            "REDUCE": lambda _: self.made(typed(pop(), tuple)),
            "NEWOBJ": lambda _: self.made(typed(pop(), tuple)),
            "NEWOBJ_EX": lambda _: self.made(typed([pop(), pop()][1], tuple)),  # without the named arguments
            "OBJ": lambda _: self.object(group()),
            "INST": lambda name: self.inert(name.replace(" ", ".", 1), group()),
            "GLOBAL": lambda name: push(Named(name.replace(" ", ".", 1))),
            "STACK_GLOBAL": lambda _: push(Named(".".join([typed(pop(), str), typed(pop(), str)][::-1]))),
            "BINPERSID": lambda _: push(self.persistent(pop())),
            "PERSID": lambda text: push(self.persistent(text)),
            "MEMOIZE": lambda _: self.memo.__setitem__(len(self.memo), stack[-1]),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda index: push(self.memo[index])),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda index: self.memo.__setitem__(index, stack[-1])),
            **dict.fromkeys(("EXT1", "EXT2", "EXT4", "NEXT_BUFFER"), lambda _: self.inert("another program")),
            **dict.fromkeys(("PROTO", "FRAME", "READONLY_BUFFER"), self.ignore),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
        }

    def group(self) -> list[Any]:
        """Takes everything above the last mark from the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def ignore(self, _: Any) -> None:
        """Drops a value."""

    def inert(self, name: str, _: object = None) -> None:
        """Pushes an Inert. The second argument, the values that it would hold, is dropped."""
        self.stack.append(Inert(name))

    def tuple_of(self, count: int) -> None:
        """Replaces the last `count` values by their tuple."""
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def extend(self, items: list[Any]) -> None:
        """Appends to the list at the top. An Inert ignores it."""
        if not isinstance(self.stack[-1], Inert):
            typed(self.stack[-1], list).extend(items)

    def fill(self, into: dict, items: list[Any], then: Callable[[Any], Any]) -> None:
        """Puts [key, value, key, value, ...] into a dict, and passes the dict on."""
        for key, value in zip(items[::2], items[1::2], strict=True):
            into[key_of(key)] = value
        then(into)

    def fill_top(self, items: list[Any]) -> None:
        """Puts items into the dict at the top. An Inert ignores them."""
        if not isinstance(self.stack[-1], Inert):
            self.fill(typed(self.stack[-1], dict), items, self.ignore)

    def build(self, _: Any) -> None:
        """An object gets its state. The attributes of dicts are dropped; a tensor with a state is no plain tensor."""
        if type(self.stack[-1]) is Tensor:
            self.stack[-1] = Odd("with a state of its own")

    def made(self, arguments: tuple) -> None:
        """Replaces the function or class at the top by what it would make."""
        self.stack[-1] = call(self.stack[-1], arguments)

    def object(self, items: list[Any]) -> None:
        """Pushes what the first item, a class, would make of the others."""
        self.stack.append(call(items[0], tuple(items[1:])))


class Stream(Protocol):
    """A binary file, or a file in memory."""

    def read(self, size: int, /) -> bytes:
        """Reads at most `size` bytes."""

    def readline(self) -> bytes:
        """Reads up to the end of a line."""


def read(stream: Stream, persistent: Callable[[Any], Any] = storage) -> Any:
    """Reads one pickle, of any protocol.

    Args:
      stream: stands where the pickle begins. Afterwards it stands behind the pickle.
      persistent: what a persistent id stands for.
    Returns:
      Dicts, lists, tuples, texts, numbers, bytes, Tensor, Storage, and Inert in place of everything else.
    Raises:
      Exception: of many types, if the pickle is damaged.
    """
    machine = _Machine(persistent)
    for instruction, value, _ in pickletools.genops(stream):  # type: ignore[arg-type]
        if instruction.name == "STOP":
            return machine.stack.pop()
        act = machine.does.get(instruction.name)
        if act is None:  # it pushes the number, text or bytes that it carries
            machine.stack.append(value)
        else:
            act(value)
    raise ValueError("the pickle has no end")
