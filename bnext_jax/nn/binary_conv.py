"""The binary convolution: a quantized map convolved with quantized latent weights."""

import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError
from bnext_jax.nn.convolution import convolution, plain

PADDINGS = ("torch", "same")


class LatentWeight(nnx.Param):
    """A real weight behind a binary one. Metadata: quantizer (a WeightQuantizer), bounds (the quantizer's), decay (weight-decay group)."""


class BinaryConv(nnx.Module):
    """y = conv_k(input_quantizer(x + shift), kernel_quantizer(w, T)); no bias.

    Padding comes after the quantizer: with pad_value 0 border taps contribute 0, which is neither level.

    Args:
      inputs: channels in.
      features: channels out.
      size: side of the kernel, odd.
      stride: in pixels.
      input_quantizer: an ActivationQuantizer; None = the input is quantized already.
      kernel_quantizer: a WeightQuantizer.
      padding: "torch": size // 2 pixels on all sides. "same": TensorFlow's rule, ceil(side / stride) positions, the odd pixel below and on
        the right.
      pad_value: what is padded.
    Raises:
      UserError: an unknown padding.
    """

    def __init__(self, inputs, features, size, stride=1, *, input_quantizer, kernel_quantizer, padding="torch", pad_value=0, rngs):
        if padding not in PADDINGS:
            raise UserError(f"padding is {padding!r}; one of: {', '.join(PADDINGS)}")
        self.stride, self.padding, self.pad_value = stride, padding, pad_value
        self.input_quantizer, self.kernel_quantizer = input_quantizer, kernel_quantizer
        values = kernel_quantizer.initialize(rngs.params(), (size, size, inputs, features))
        self.kernel = LatentWeight(values, quantizer=kernel_quantizer, bounds=kernel_quantizer.bounds, decay="weights")

    def __call__(self, x, temperature=None, *, shift=None, dtype=None):
        """The convolution.

        Args:
          x: [N,H,W,inputs].
          temperature: scalar T for the kernel's quantizer.
          shift: [inputs], added before the input is quantized; None = nothing.
          dtype: type of the sums and of the output; None = that of x.
        Returns:
          [N, ceil(H/stride), ceil(W/stride), features].
        """
        binary = x if self.input_quantizer is None else self.input_quantizer(x, shift)
        kernel = self.kernel_quantizer(self.kernel[...], temperature).astype(x.dtype)
        if self.padding == "torch" and self.pad_value == 0:
            return convolution(binary, kernel, self.stride, dtype)
        padded = jnp.pad(binary, ((0, 0), *self._pads(x.shape[1:3]), (0, 0)), constant_values=self.pad_value)
        return plain(padded, kernel, self.stride, dtype, pads=((0, 0), (0, 0)))

    def _pads(self, sides):
        """((top, bottom), (left, right)) in pixels."""
        size = self.kernel.shape[0]
        if self.padding == "torch":
            return ((size // 2, size // 2),) * 2
        return tuple(lax.padtype_to_pads(sides, (size, size), (self.stride, self.stride), "SAME"))
