"""Reads the collectives of a compiled step, that is the data that devices exchange, from its program text (HLO)."""

import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
HOLD_OPERANDS = ("all-gather", "collective-permute")  # the result type of their "-start" lists the operands first, then the results
BITS = {
    "pred": 8,
    "s8": 8,
    "u8": 8,
    "s16": 16,
    "u16": 16,
    "bf16": 16,
    "f16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
}
_OPERATION = re.compile(rf"= (?P<result>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")


def each_collective(text: str) -> list[tuple[str, int, int]]:
    """Lists the collectives of a program in program order. An asynchronous collective counts once, at its "-start".

    Args:
      text: as_text() of a compiled program.
    Returns:
      [(kind, bytes, elements)]; bytes and elements are those of the result on one device.
    """
    found = []
    for line in text.splitlines():
        match = _OPERATION.search(line)
        if not match:
            continue
        arrays = [(math.prod(map(int, filter(None, shape.split(",")))), BITS[kind]) for kind, shape in _ARRAY.findall(match["result"])]
        if match["start"] and match["kind"] in HOLD_OPERANDS:
            arrays = arrays[len(arrays) // 2 :]
        found.append((match["kind"], sum(count * bits // 8 for count, bits in arrays), sum(count for count, _ in arrays)))
    return found


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Sums the collectives of a program by kind, see each_collective.

    Args:
      text: as_text() of a compiled program.
    Returns:
      {kind: {"count", "bytes": of all together, "largest": bytes of the largest}}.
    """
    found: dict[str, dict[str, int]] = {}
    for kind, size, _ in each_collective(text):
        entry = found.setdefault(kind, {"count": 0, "bytes": 0, "largest": 0})
        entry["count"] += 1
        entry["bytes"] += size
        entry["largest"] = max(entry["largest"], size)
    return found
