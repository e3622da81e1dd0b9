"""A JPEG's Huffman codes, compiled by Numba.

Coefficients of blocks beside and above the wanted rectangle are stepped over, several at a time. Files come from strangers: nothing here
may leave an array, whatever the bytes are. So coefficients' places are looked up in a table that leads all impossible ones to a place of
their own, and after each MCU it is checked that the data have not ended; behind them stand enough zeros for a whole MCU.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from bnext_jax.data.augment.kernels import compiled
from bnext_jax.data.decode.jpeg_blocks import idct

inlined = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)  # no arrays: each call would count references
U = np.uint64  # Numba makes a float of uint64 and a signed number, so everything around the bit buffer is uint64
SHORT = 10  # bits that one look-up sees: a DC symbol, or one or two AC symbols; longer codes take a second, full table
PACK = 11  # bits that one look-up sees where coefficients are stepped over
SIZE = (2 << SHORT) + (1 << PACK)  # short tables of a pair of Huffman tables: DC, AC, steps
LONG = 1 << 16  # entries of a full table
END = 128  # the end-of-block code's advance: more than a block is long
PAD = 2048  # zero bytes behind the data: more than an MCU can read (6 blocks of 64 symbols of 27 bits), so one check for each will do
ONES = 0x0101010101010101


# Where a block's k-th coefficient lies: blocks are held transposed, so that _idct exchanges rows and columns once and not twice. All k
# beyond 63 (broken data, END) lead to place 64, which nobody reads.
_order = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
ZIGZAG = np.array([i % 8 * 8 + i // 8 for i in _order] + [64] * 192, np.uint8)


@intrinsic
def _word(typing, data, at):
    """The bytes data[at : at + 8] as a uint64, the first one on top; nothing is checked."""

    def generate(context, builder, signature, arguments):
        place = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        return builder.bswap(builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1))

    return types.uint64(data, at), generate


@intrinsic
def _put(typing, out, at, word):
    """Writes what _word reads; nothing is checked."""

    def generate(context, builder, signature, arguments):
        place = builder.gep(context.make_array(signature.args[0])(context, builder, arguments[0]).data, [arguments[1]])
        builder.store(builder.bswap(arguments[2]), builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(out, at, types.uint64), generate


@inlined
def _entry(found, ac):
    """An entry of a short table: bits of code and value together, the value's bits << 8, the advance << 16; 0: no code of that kind."""
    length, symbol = found & 31, found >> 8
    size, run = symbol & 15 if ac else symbol, symbol >> 4 if ac else 0
    if length == 0 or size > (10 if ac else 11) or (ac and size == 0 and 0 < run < 15):
        return 0
    return (length + size) | size << 8 | (END if ac and symbol == 0 else run + 1) << 16


@inlined
def _bits(word, size):
    """The value of `size` bits at the top of word: a DC difference or an AC coefficient; 0 for size 0."""
    value = np.int64((word >> U(1)) >> (U(63) - size))
    return value + (((np.int64(-1) << np.int64(size)) + 1) & ~(np.int64(word) >> 63))


@compiled
def build(counts, symbols, ac, long, short, steps):
    """Fills look-up tables of one Huffman table; says whether it is one.

    Args:
      counts: uint8 [16], codes of 1..16 bits. symbols: uint8 [sum of counts]. ac: whether for AC coefficients.
      long: uint16 [65536], zeros; by 16 bits of data: length of the code | symbol << 8.
      short: uint32 [1 << SHORT]; by SHORT bits: _entry, 0 where a code is longer.
      steps: uint32 [1 << PACK], only for AC; by PACK bits: bits of all symbols that they begin with | coefficients passed << 16.
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
            if second and used + (found & 31) <= SHORT:
                size = (first >> 8) & 15
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
    """Copies entropy-coded data to out, without the zero byte that follows each 0xFF and without restart markers; other markers end it.

    Args:
      data: uint8 [bytes]; the data begin at start. out: uint8 [bytes - start + PAD]; PAD zeros follow what is copied.
      starts: int64 [intervals + 1]: filled with where in out each restart interval begins, and where the last one ends.
    Returns:
      how many intervals there are, at most as many as starts has room for.
    """
    size, i, at, n = len(data), start, 0, 1
    starts[0] = 0
    while i < size:
        if i + 8 <= size:
            word = _word(data, i)
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
    """The bit buffer filled up."""
    return word | fresh >> count, count | U(56), at + ((U(63) - count) >> U(3))


@compiled
def decode(data, start, restart, intervals, short, long, pairs, quantizers, wide, high, columns, top, left, rows, width):
    """Decodes a window of MCUs.

    Args:
      data: uint8 [bytes], the file. intervals: how many restart intervals there can be. wide, high: the sampling.
      columns: MCUs of a row of the whole picture. top, left, rows, width: the window, in MCUs.
    Returns:
      uint8 [pixels], the planes one after the other; none where the data are broken.
    """
    stream, starts = np.empty(len(data) - start + PAD, np.uint8), np.zeros(intervals + 1, np.int64)
    intervals = _unstuff(data, start, stream, starts)
    luma, chroma = wide * high, len(pairs) - 1
    blocks = luma + chroma
    area = rows * width * 64  # pixels of a plane with one block in an MCU
    out, broken = np.empty(area * blocks, np.uint8), np.empty(0, np.uint8)
    # Of each block of an MCU: where it begins in the window's first MCU, and how far it is to the next pixel row, MCU and row of MCUs
    origin, stride, across, down = np.empty((4, blocks), np.int64)
    for block in range(blocks):
        across[block], stride[block] = (8 * wide, 8 * wide * width) if block < luma else (8, 8 * width)
        down[block] = stride[block] * (8 * high if block < luma else 8)
        origin[block] = block // wide * 8 * stride[0] + block % wide * 8 if block < luma else area * block
    coefficients, dc = np.zeros(72, np.int16), np.zeros(3, np.int64)
    # word: the next bits, on top; count: how many of them are sure; at: the byte that refills it next. Each refill takes as many whole
    # bytes as fit, at least 56 bits are there then: enough for one look-up (21 bits) or a long code (27).
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
                k = U(0)  # the last coefficient that is known
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
                        coefficients[ZIGZAG[first]] = np.int32(entry) >> 24  # without a first symbol: a zero, where one is anyway
                        k += (entry >> U(16)) & U(255)
                        coefficients[ZIGZAG[k]] = _bits(word << (length - size), size)
                        word, count, at = _refill(word << length, count - length, at, _word(stream, at))
                    place = origin[block] + (row - top) * down[block] + (column - left) * across[block]
                    if k == U(END):  # nothing but DC
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
