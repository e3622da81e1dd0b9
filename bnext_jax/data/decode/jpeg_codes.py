"""Decodes a JPEG's Huffman codes, compiled by Numba.

The decoder skips the coefficients of blocks beside and above the wanted rectangle, several at a time.

The files are not trusted: whatever the bytes are, the code must not read or write outside an array. Two rules ensure that. The position
of a coefficient comes from a table (ZIGZAG) that maps all impossible indices to one unused position. After each MCU, the decoder checks
that it has not passed the end of the data; the zeros after the data are enough for a whole MCU.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bnext_jax.data.augment.kernels import compiled
from bnext_jax.data.decode.jpeg_blocks import idct
from bnext_jax.host import machine_code

# Only for functions without array arguments: each call would count an array's references.
inlined = machine_code.compiled(forceinline=True)
U = np.uint64  # in Numba, uint64 and a signed integer give a float, so all numbers used with the bit buffer are uint64
SHORT = 10  # bits per look-up: finds one DC symbol, or one or two AC symbols; longer codes need a look-up in the full table
PACK = 11  # bits per look-up where coefficients are skipped
SIZE = (2 << SHORT) + (1 << PACK)  # entries of the short tables for one pair of Huffman tables: DC, AC, steps
LONG = 1 << 16  # entries of a full table: one for each 16 bits of data
END = 128  # advance of the end-of-block code; larger than a block (64)
PAD = 2048  # zero bytes after the data; an MCU reads less (6 blocks of 64 symbols of 27 bits = 1296 bytes), so one check per MCU is enough
ONES = 0x0101010101010101


# The position of a block's k-th coefficient. Blocks are stored transposed, so that idct transposes once and not twice. All k above 63
# (broken data, END) map to position 64, which is never read.
_order = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
ZIGZAG = np.array([i % 8 * 8 + i // 8 for i in _order] + [64] * 192, np.uint8)


@intrinsic
def _word(typing, data, at):
    """Reads data[at : at + 8] as a big-endian uint64, without bounds checks."""

    def generate(context, builder, signature, arguments):
        place = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        return builder.bswap(builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1))

    return types.uint64(data, at), generate


@intrinsic
def _put(typing, out, at, word):
    """Writes a uint64 to out[at : at + 8], big-endian, without bounds checks."""

    def generate(context, builder, signature, arguments):
        place = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        builder.store(builder.bswap(arguments[2]), builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(out, at, types.uint64), generate


@inlined
def _entry(found, ac):
    """Returns a short table's entry for one symbol, from a full table's entry; 0: the code is invalid.

    Bits 0-7: bits of code and value together. Bits 8-11: bits of the value. Bits 16-23: advance, in coefficients.
    """
    length, symbol = found & 31, found >> 8
    size, run = symbol & 15 if ac else symbol, symbol >> 4 if ac else 0
    if length == 0 or size > (10 if ac else 11) or (ac and size == 0 and 0 < run < 15):
        return 0
    return (length + size) | size << 8 | (END if ac and symbol == 0 else run + 1) << 16


@inlined
def _bits(word, size):
    """Returns the value of the top `size` bits of word: a DC difference or an AC coefficient; 0 for size 0."""
    value = np.int64((word >> U(1)) >> (U(63) - size))
    return value + (((np.int64(-1) << np.int64(size)) + 1) & ~(np.int64(word) >> 63))


@compiled
def build(counts: np.ndarray, symbols: np.ndarray, ac: bool, long: np.ndarray, short: np.ndarray, steps: np.ndarray) -> bool:
    """Fills the look-up tables of one Huffman table.

    Args:
      counts: uint8 [16], number of codes of 1..16 bits.
      symbols: uint8 [sum of counts].
      ac: whether the table is for AC coefficients.
      long: uint16 [65536], zeros; index: 16 bits of data. Entry: length of the code | symbol << 8.
      short: uint32 [1 << SHORT], zeros; index: SHORT bits. Entry: see _entry; 0 if the code is longer. An entry with two AC symbols
        is the second one's with the bits and the advance of both; bits 12-15: first advance - 1; bits 24-31: first value.
      steps: uint32 [1 << PACK], only for AC; index: PACK bits. Entry for all symbols that fit: their bits | coefficients passed << 16
        | coefficients passed before the last symbol << 24.
    Returns:
      whether the table is valid.
    """
    at, n = 0, 0
    for length in range(1, 17):
        for _ in range(counts[length - 1]):
            span = 1 << (16 - length)
            if at + span > 65536:
                return False
            long[at : at + span] = length | np.int64(symbols[n]) << 8
            at += span
            n += 1
    for i in range(1 << SHORT):
        bits = i << (16 - SHORT)
        found = np.int64(long[bits])
        if found & 31 > SHORT:
            continue
        first = short[i] = _entry(found, ac)
        used, passed = first & 255, first >> 16
        if ac and used < SHORT and 0 < passed < END:
            found = np.int64(long[(bits << used) & 65535])
            second = _entry(found, ac)
            size = (first >> 8) & 15
            if second and used + (found & 31) <= SHORT and size < 8:  # the first value has eight bits, with its sign
                value = _bits(U(bits) << U(48 + used - size), U(size))
                short[i] = (second + used + (passed << 16)) | (passed - 1) << 12 | (value & 255) << 24
    for i in range(1 << PACK if ac else 0):
        used, passed, before = 0, 0, 0
        while used < PACK and passed < 64:
            found = np.int64(long[((i << (16 - PACK)) << used) & 65535])
            entry = _entry(found, ac)
            if entry == 0 or used + (found & 31) > PACK:
                break
            before = passed
            used += entry & 255
            passed += entry >> 16
        steps[i] = used | passed << 16 | before << 24
    return True


@compiled
def _unstuff(data, start, out, starts):
    """Copies entropy-coded data, without the zero byte after each 0xFF and without restart markers. Any other marker ends the data.

    Args:
      data: uint8 [bytes], the file.
      start: where the entropy-coded data begin.
      out: uint8 [bytes - start + PAD]; receives the copy, then PAD zeros.
      starts: int64 [intervals + 1]; receives where each restart interval begins in out, then where the last one ends.
    Returns:
      number of intervals, at most len(starts) - 1.
    """
    size, i, at, n = len(data), start, 0, 1
    starts[0] = 0
    while i < size:
        if i + 8 <= size:
            word = _word(data, i)  # type: ignore[var-annotated]
            _put(out, at, word)
            if (~word - U(ONES)) & word & U(ONES << 7) == 0:  # no byte is 0xFF
                i += 8
                at += 8
                continue
        while i < size and data[i] != 255:
            out[at] = data[i]
            i += 1
            at += 1
        after = data[i + 1] if i + 1 < size else 0xD9
        i += 2
        if after == 0:
            out[at] = 255
            at += 1
        elif after == 0xD0 + (n - 1) % 8 and n < len(starts) - 1:
            starts[n] = at
            n += 1
        else:
            break
    out[at : at + PAD] = 0
    starts[n] = at
    return n


@inlined
def _refill(word, count, at, fresh):
    """Refills the bit buffer; returns (word, count, at), see decode."""
    return word | fresh >> count, count | U(56), at + ((U(63) - count) >> U(3))


@compiled
def decode(
    data: np.ndarray,
    start: int,
    restart: int,
    intervals: int,
    short: np.ndarray,
    long: np.ndarray,
    pairs: np.ndarray,
    quantizers: np.ndarray,
    wide: int,
    high: int,
    columns: int,
    top: int,
    left: int,
    rows: int,
    width: int,
) -> np.ndarray:
    """Decodes a window of MCUs.

    Args:
      data: uint8 [bytes], the file.
      start: where the entropy-coded data begin, in bytes.
      restart: MCUs per restart interval; 0: there is one interval.
      intervals: largest possible number of restart intervals.
      short: short tables of all pairs, see jpeg.Layout.
      long: full tables of all pairs, likewise.
      pairs: index of each component's pair of tables, likewise.
      quantizers: factors for idct, likewise.
      wide: luma pixels per chroma pixel, horizontally.
      high: luma pixels per chroma pixel, vertically.
      columns: MCUs per row of the whole picture.
      top: first row of the window, in MCUs.
      left: first column, in MCUs.
      rows: rows of the window, in MCUs.
      width: columns of the window, in MCUs.
    Returns:
      uint8 [pixels], the planes one after the other; empty if the data are broken.
    """
    stream, starts = np.empty(len(data) - start + PAD, np.uint8), np.zeros(intervals + 1, np.int64)
    intervals = _unstuff(data, start, stream, starts)
    luma, chroma = wide * high, len(pairs) - 1
    blocks = luma + chroma
    area = rows * width * 64  # pixels of a plane with one block in an MCU
    out, broken = np.empty(area * blocks, np.uint8), np.empty(0, np.uint8)
    # For each block of an MCU: its origin in the window's first MCU, and the distance to the next pixel row, MCU and row of MCUs
    origin, stride, across, down = np.empty((4, blocks), np.int64)
    for block in range(blocks):
        across[block], stride[block] = (8 * wide, 8 * wide * width) if block < luma else (8, 8 * width)
        down[block] = stride[block] * (8 * high if block < luma else 8)
        origin[block] = block // wide * 8 * stride[0] + block % wide * 8 if block < luma else area * block
    coefficients, dc = np.zeros(72, np.int16), np.zeros(3, np.int64)
    # word: bit buffer, next bits on top; count: number of valid bits; at: the byte that the next refill reads. A refill adds as many
    # whole bytes as fit. Then at least 56 bits are valid: enough for one look-up (21 bits) or a long code (27 bits).
    word, count, at, end, interval, rest = U(0), U(0), U(0), 0, 0, 0
    for row in range(top + rows):
        for column in range(columns if row < top + rows - 1 else left + width):
            if rest == 0:
                if interval == intervals:
                    return broken
                at, end, rest = U(starts[interval]), starts[interval + 1], restart
                word, count, at = _refill(U(0), U(0), at, _word(stream, at))
                dc[:] = 0
                interval += 1
            rest -= 1
            wanted = top <= row and left <= column < left + width
            for block in range(blocks):
                c = max(block - luma + 1, 0)
                base, full = U(pairs[c] * SIZE), U(pairs[c] * 2 * LONG)
                entry = U(short[base + (word >> U(64 - SHORT))])
                if entry == 0:
                    entry = U(_entry(np.int64(long[full + (word >> U(48))]), False))
                    if entry == 0:
                        return broken
                length, size = entry & U(63), (entry >> U(8)) & U(15)
                dc[c] += _bits(word << (length - size), size)
                word <<= length
                count -= length
                base += U(1 << SHORT)
                full += U(LONG)
                k = U(0)  # index of the last decoded coefficient
                if wanted:
                    coefficients[0] = dc[c]
                    while k < U(63):
                        entry = U(short[base + (word >> U(64 - SHORT))])
                        first = k + ((entry >> U(12)) & U(15)) + U(1)
                        if entry == 0 or first >= U(63):  # a long code, or the block may end before the second symbol
                            entry = U(_entry(np.int64(long[full + (word >> U(48))]), True))
                            if entry == 0:
                                return broken
                            first = k + U(1)
                        length, size = entry & U(63), (entry >> U(8)) & U(15)
                        coefficients[ZIGZAG[first]] = np.int32(entry) >> 24  # an entry with one symbol writes 0 over 0
                        k += (entry >> U(16)) & U(255)
                        coefficients[ZIGZAG[k]] = _bits(word << (length - size), size)
                        word, count, at = _refill(word << length, count - length, at, _word(stream, at))
                    place = origin[block] + (row - top) * down[block] + (column - left) * across[block]
                    if k == U(END):  # only DC
                        level = min(max(coefficients[0] * quantizers[64 * c] + np.float32(128.5), np.float32(0)), np.float32(255))
                        for _ in range(8):
                            _put(out, place, U(np.int64(level)) * U(ONES))
                            place += stride[block]
                    else:
                        idct(coefficients, quantizers, 64 * c, out, place, stride[block])
                else:
                    base += U(1 << SHORT)
                    while k < U(63):
                        entry = U(short[base + (word >> U(64 - PACK))])
                        if entry == 0 or k + (entry >> U(24)) >= U(63):
                            entry = U(_entry(np.int64(long[full + (word >> U(48))]), True))
                            if entry == 0:
                                return broken
                        length = entry & U(63)
                        k += (entry >> U(16)) & U(255)
                        word, count, at = _refill(word << length, count - length, at, _word(stream, at))
                if U(63) < k < U(END):
                    return broken
            if np.int64(at * U(8) - count) > 8 * end:
                return broken
    return out
