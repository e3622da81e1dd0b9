"""Counts the bytes that a compiled TPU program reads from HBM and writes to it, from the program text (HLO).

cost_analysis counts every operand and result of every operation, in whichever memory it lies. With higher effort the compiler
prefetches arrays into the chip's own memory (VMEM, "S(1)" in the text). cost_analysis counts a prefetched array twice more, as the
copy and again as an operand, but the array crosses HBM's bus once. A bound by HBM bandwidth must count it once. With effort -1 the
program keeps nothing in VMEM and both counts agree (tests/tpu/test_plan.py).

Sizes are sizes in whole tiles: a bfloat16 feature map with 64 images in the lanes takes the memory of 128 images.
"""

import collections
import dataclasses
import functools
import math
import re

from bnext_jax.tpu.collectives import BITS

FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "partition-id", "replica-id", "iota", "opt-barrier", "after-all"}
CALLS = {"while": "body", "call": "to_apply"}
ON_CHIP = "S(1)"
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\](?:\{([0-9,]*)(?::((?:[^{}]|\{[^{}]*\})*))?\})?")
_TILE = re.compile(r"T\((?:([0-9]+),)?([0-9]+)\)")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation, which is one line of a program.

    Attributes:
      name: its name in the text.
      result: text of the result's type.
      kind: for example "fusion".
      operands: names of the operands.
      called: name of the computation that it runs, or None.
      number: index of a parameter, None for other kinds.
    """

    name: str
    result: str
    kind: str
    operands: tuple
    called: str | None
    number: int | None


def _arrays(text: str) -> list[tuple[int, bool]]:
    """[(bytes in whole tiles, whether it lies in VMEM)] of the arrays in a type."""
    found = []
    for kind, shape, order, tiling in _ARRAY.findall(text):
        if kind not in BITS:
            continue
        sides = [int(side) for side in shape.split(",") if side]
        tile = _TILE.search(tiling)
        if tile and order and sides:
            minor = [int(axis) for axis in order.split(",")]
            for axis, whole in zip(minor, (tile[2], tile[1]), strict=False):
                sides[axis] = math.ceil(sides[axis] / int(whole or 1)) * int(whole or 1)
        found.append((math.prod(sides) * BITS[kind] // 8, ON_CHIP in tiling))
    return found


def _size(text: str) -> int:
    """Bytes of a type."""
    return sum(size for size, _ in _arrays(text))


def _hbm(text: str) -> int:
    """Bytes of the arrays in a type that lie in HBM."""
    return sum(size for size, on_chip in _arrays(text) if not on_chip)


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the text's first character, which is "("."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def _operation(line: str) -> Operation | None:
    """Parses a line "  %name = TYPE kind(operands), attributes"; None for any other line."""
    match = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = ", line)
    if not match:
        return None
    rest = line[match.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end + 1 :]
    kind, rest = rest[: rest.index("(")], rest[rest.index("(") :]
    end = _closing(rest)
    attribute = {"fusion": "calls", **CALLS}.get(kind)
    called = attribute and re.search(rf"\b{attribute}=%([\w.\-]+)", rest[end:])
    number = int(rest[1:end]) if kind == "parameter" else None
    return Operation(match[1], result, kind, tuple(_NAME.findall(rest[:end])), called[1] if called else None, number)


def _computations(text: str) -> tuple[dict[str, dict[str, Operation]], str | None]:
    """({computation: {operation: Operation}}, name of the entry computation)."""
    found: dict[str, dict[str, Operation]]
    found, entry, inside = {}, None, None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%([\w.\-]+) .*\{$", line)
        if head:
            inside = found[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif inside is not None and (operation := _operation(line)):
            inside[operation.name] = operation
    return found, entry


def hbm_bytes(text: str, rounds: int = 1) -> int:
    """Counts the bytes that a compiled TPU program reads from HBM and writes to it, on one device.

    The reads of a fusion's operand are counted as in XLA's cost analysis: all uses together count once, but each nested fusion and
    each slice counts by itself.

    Args:
      text: as_text() of the program.
      rounds: iterations of the program's loops; the text does not say them.
    Returns:
      Bytes.
    """
    computations, entry = _computations(text)
    users: dict[str, dict[str, list[tuple[Operation, int]]]] = {name: collections.defaultdict(list) for name in computations}
    for name, operations in computations.items():
        for operation in operations.values():
            for position, operand in enumerate(operation.operands):
                users[name][operand].append((operation, position))
    parameters = {
        name: {operation.number: operation for operation in operations.values() if operation.kind == "parameter"}
        for name, operations in computations.items()
    }

    @functools.cache
    def read(fused: str, number: int) -> int:
        """Bytes that a fused computation reads of one of its parameters."""
        parameter, size, seen = parameters[fused][number], 0, False
        for user, position in users[fused][parameter.name]:
            if user.kind == "fusion":
                size += read(user.called, position)
            elif user.kind in ("slice", "dynamic-slice"):
                size += _size(user.result)
            elif user.kind in ("broadcast", "reshape"):
                size += _size(parameter.result)
            elif not seen:
                seen, size = True, size + _size(parameter.result)
        return size

    def moved(name: str | None) -> int:
        """Bytes that one run of a computation moves."""
        total, operations = 0, computations[str(name)]
        for operation in operations.values():
            if operation.kind in FREE or operation.kind.endswith("-done"):
                continue
            if operation.kind in CALLS:
                total += moved(operation.called) * (rounds if operation.kind == "while" else 1)
            elif operation.kind in (
                "copy-start",
                "slice-start",
            ):  # the result holds destination, source and a context of 8 bytes or less
                ends = [end for end in _arrays(operation.result) if end[0] > 8]
                total += min((size for size, _ in ends), default=0) * sum(not on_chip for _, on_chip in ends)
            else:
                total += _hbm(operation.result)
                for position, operand in enumerate(operation.operands):
                    held = operations[operand].result if operand in operations else ""
                    if operation.kind == "fusion" and _hbm(held):
                        total += read(operation.called, position)
                    elif operation.kind != "fusion":
                        total += _hbm(held)
        return total

    return moved(entry)
