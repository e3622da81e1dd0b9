"""The form of a packed network that runs on every backend of JAX: binary convolutions that count differing bits.

A byte of the input holds the bits of 8 channels, and so does a byte of the kernel. XOR marks the channels where they differ, and
population_count counts them. The sums are integers, so they are exact.

Let x be the input with the levels low and high, m = (low + high) / 2 and h = (high - low) / 2. Let w be the kernel, +1 or -1, p its number
of +1 and s = 2 p - I its sum at one tap over I input channels. M is the number of differing bits at all taps. A padded pixel has only
zero bits, so it differs in p bits. Then

    sum of x w = sum over taps inside the map of (h I + m s) + sum over padded taps of (2 h p + pad_value s) - 2 h M
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.convolution import border
from bnext_jax.packed.layout import unpacked_bits

# A uint8 can count the differing bits of 31 bytes, because 31 * 8 < 256. Rounds of 16 bytes need less time to compile, and run as fast.
# Rounds of 8 bytes are 30 times slower on a CPU: XLA does not turn them into vector instructions.
LONGEST, CHUNK = 31, 16


class PackedBits(nnx.Variable):
    """The bits of a binary kernel, or numbers that follow from them. They are not trained."""


def octets(positive: Callable[[jax.Array, jax.Array | None], jax.Array], x: jax.Array, shift: jax.Array | None) -> jax.Array:
    """Packs the bits of a map into bytes. Bit b of byte j is channel b B + j, with B = ceil(C/8).

    In this order each bit comes from a contiguous part of the channels, which a CPU reads with vector instructions. A loop packs the bits,
    because XLA writes the operands and the result of a loop to memory. Otherwise it would compute x again for each tap that reads it.

    Args:
      positive: elementwise function of (part of x, the same part of the shift), which gives booleans.
      x: [..., C], any floating type.
      shift: [C], or None.
    Returns:
      uint8 [..., B].
    """
    count = -(-x.shape[-1] // 8)
    missing = 8 * count - x.shape[-1]
    if missing:  # the kernel has zero bits there
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
        shift = None if shift is None else jnp.pad(shift, (0, missing))
    real = np.arange(8 * count).reshape(8, count) < 8 * count - missing

    def add(b, found):
        own = None if shift is None else lax.dynamic_slice_in_dim(shift, b * count, count)
        bits = positive(lax.dynamic_slice_in_dim(x, b * count, count, -1), own)
        if missing:
            bits &= jnp.asarray(real)[b]
        return found | bits.astype(jnp.uint8) << b.astype(jnp.uint8)

    return lax.fori_loop(0, 8, add, jnp.zeros((*x.shape[:-1], count), jnp.uint8))


def kernel_octets(positive: np.ndarray) -> np.ndarray:
    """Packs booleans [..., I, O] into bytes as `octets` does: uint8 [..., B, O]."""
    *taps, inputs, outputs = positive.shape
    count = -(-inputs // 8)
    padded = np.zeros((*taps, 8 * count, outputs), bool)
    padded[..., :inputs, :] = positive
    return np.packbits(padded.reshape(*taps, 8, count, outputs), axis=-3, bitorder="little").squeeze(-3)


def mismatches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Counts the bits in which each row of x differs from each column of the kernel.

    Args:
      x: uint8 [P, K].
      kernel: uint8 [K, O].
    Returns:
      [P, O], uint16 where it holds the largest possible count, else int32.
    """
    total = jnp.uint16 if 8 * x.shape[1] < 2**16 else jnp.int32
    chunk = x.shape[1] if x.shape[1] <= LONGEST else CHUNK
    rounds = -(-x.shape[1] // chunk)
    missing = rounds * chunk - x.shape[1]
    x, kernel = jnp.pad(x, ((0, 0), (0, missing))), jnp.pad(kernel, ((0, missing), (0, 0)))

    def add(i, found):
        part = lax.dynamic_slice_in_dim(x, i * chunk, chunk, 1)
        weights = lax.dynamic_slice_in_dim(kernel, i * chunk, chunk, 0)
        counts = [lax.population_count(part[:, j : j + 1] ^ weights[j]) for j in range(chunk)]
        return found + functools.reduce(jnp.add, counts).astype(total)

    return lax.fori_loop(0, rounds, add, jnp.zeros((x.shape[0], kernel.shape[1]), total))


def _inside(side: int, size: int, stride: int, pads: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Which taps of a kernel lie inside the map, along one axis.

    Returns:
      (kinds, kind). kinds: booleans [number of kinds, size]. kind: [output positions], the number of each position's kind.
    """
    positions = (side + sum(pads) - size) // stride + 1
    taps = np.arange(positions)[:, None] * stride + np.arange(size) - pads[0]
    return np.unique((taps >= 0) & (taps < side), axis=0, return_inverse=True)


class PackedConv(nnx.Module):
    """A BinaryConv whose kernel is bits. It has no gradient.

    Args:
      layer: the BinaryConv, abstract or not. Its input quantizer, stride and padding apply.
      words: the bits, uint32 [k, k, ceil(I/32), O], see packed.layout.packed_bits.
      scale: factors [O] of the output channels; None means no factors.
    """

    def __init__(self, layer: BinaryConv, words: np.ndarray, scale: np.ndarray | None = None) -> None:
        self.stride, self.padding, self.pad_value = layer.stride, layer.padding, layer.pad_value
        self.input_quantizer = layer.input_quantizer
        self.inputs = layer.kernel.shape[2]
        positive = unpacked_bits(words, self.inputs)
        self.kernel = PackedBits(jnp.asarray(kernel_octets(positive)))
        (low, high), ones = self._levels(), positive.sum(2, dtype=np.float32).reshape(-1, positive.shape[-1])
        sums = 2 * ones - self.inputs
        inside, outside = (high - low) / 2 * self.inputs + (low + high) / 2 * sums, (high - low) * ones + self.pad_value * sums
        # The constant parts of the module's formula: the sum of all taps if each one is padded, and what a tap inside the map adds.
        self.outside, self.gain = PackedBits(jnp.asarray(outside.sum(0))), PackedBits(jnp.asarray(inside - outside))
        self.kernel_scale = None if scale is None else PackedBits(jnp.asarray(scale))

    def __call__(
        self,
        x: jax.Array,
        temperature: jax.Array | float | None = None,
        *,
        shift: jax.Array | None = None,
        binarizes: jax.Array | bool = True,
        dtype: Any = None,
    ) -> jax.Array:
        """Computes what BinaryConv computes. Where the quantized input is between the levels (sign(0) = 0), it counts as the high one.

        Args:
          x: [N, H, W, inputs], any floating type.
          temperature: ignored; packed weights are exact.
          shift: [inputs], added to x before the input quantizer; None adds nothing.
          binarizes: ignored; packed weights are binary.
          dtype: type of the output; None means the type of x.
        Returns:
          [N, ceil(H/stride), ceil(W/stride), features].
        """
        del temperature, binarizes
        (low, high), size = self._levels(), self.kernel.shape[0]
        x_bits = octets(self._positive, x, shift)
        pads = border(x.shape[1:3], size, self.stride, size // 2 if self.padding == "torch" else "SAME")
        rows, columns = (_inside(side, size, self.stride, pad) for side, pad in zip(x.shape[1:3], pads, strict=True))
        shape = (x.shape[0], len(rows[1]), len(columns[1]), self.kernel.shape[-1])
        flat = _windows(x_bits, size, self.stride, pads, shape[1:3]).reshape(-1, size * size * x_bits.shape[-1])
        differing = mismatches(flat, self.kernel[...].reshape(-1, shape[-1])).reshape(shape)
        y = self._constant(rows, columns) - (high - low) * differing.astype(jnp.float32)
        if self.kernel_scale is not None:
            y = y * self.kernel_scale[...]
        return y.astype(x.dtype if dtype is None else dtype)

    def _levels(self):
        return (-1, 1) if self.input_quantizer is None else self.input_quantizer.levels

    def _positive(self, x, shift):
        """Whether each value of the quantized input is the high level."""
        return (x if self.input_quantizer is None else self.input_quantizer(x, shift)) >= sum(self._levels()) / 2

    def _constant(self, rows, columns):
        """The part of the sum that does not depend on x, [H', W', O] or [1, 1, O]. See the module's docstring."""
        inside = (rows[0][:, None, :, None] & columns[0][:, None, :]).reshape(-1, self.gain.shape[0]).astype(np.float32)
        # A matrix product, because XLA would compute a sum again for each output position.
        table = self.outside[...] + jnp.matmul(inside, self.gain[...], precision="highest")
        table = table.reshape(len(rows[0]), len(columns[0]), -1)
        return table if table.shape[:2] == (1, 1) else table[rows[1][:, None], columns[1]]


def _windows(x: jax.Array, size: int, stride: int, pads: Sequence[tuple[int, int]], sides: Sequence[int]) -> jax.Array:
    """The pixels under each position of a kernel: [N, H, W, B] to [N, H', W', size * size * B]. Padded pixels are 0."""
    if size == stride == 1:
        return x
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (stride * (side - 1) + 1 for side in sides)
    taps = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(taps, axis=-1)
