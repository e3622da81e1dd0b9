"""What devices send each other in a compiled step, read from its program text (HLO)."""

import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
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


def collectives(text):
    """{kind: {"count", "bytes", "largest"}} of the collectives in a program; bytes are those of the results on one device.

    largest: bytes of the largest of them.

    Args:
      text: a compiled program's as_text(). An asynchronous collective counts once, by its start.
    """
    found = {}
    for line in text.splitlines():
        match = _OPERATION.search(line)
        if not match:
            continue
        sizes = [math.prod(map(int, filter(None, shape.split(",")))) * BITS[kind] // 8 for kind, shape in _ARRAY.findall(match["result"])]
        if match["start"] and len(sizes) > 1:
            sizes = sizes[len(sizes) // 2 :]  # a start's result holds its operands too
        entry = found.setdefault(match["kind"], {"count": 0, "bytes": 0, "largest": 0})
        entry["count"] += 1
        entry["bytes"] += sum(sizes)
        entry["largest"] = max(entry["largest"], sum(sizes))
    return found
