"""The binary convolution: a quantized feature map, convolved with quantized latent weights."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.nn.convolution import border, convolution, plain
from bnext_jax.nn.layers import Initializer
from bnext_jax.nn.quantizers import ActivationQuantizer, WeightQuantizer

PADDINGS = ("torch", "same")


class LatentWeight(nnx.Param):
    """A latent weight: the real number behind a binary weight. The kernel of a convolution with real weights is none.

    Metadata: `quantizer` (a WeightQuantizer), `bounds` (those of the quantizer), `decay` (the weight-decay group).
    """


class BinaryConv(nnx.Module):
    """y = conv_k(input_quantizer(x + shift), kernel_quantizer(w, T)), without bias.

    The layer pads after it quantizes. With pad_value 0, border taps contribute 0, which is neither of the two levels.

    Args:
      inputs: input channels.
      features: output channels.
      size: side of the kernel, odd.
      stride: positive integer, in pixels.
      input_quantizer: an ActivationQuantizer; None means that the input is already quantized.
      kernel_quantizer: a WeightQuantizer. With RealWeight() the kernel is a plain nnx.Param, not a LatentWeight.
      padding: "torch" pads size // 2 pixels on all sides. "same" is TensorFlow's rule: ceil(side / stride) output positions, and an odd
          pixel goes to the bottom and to the right.
      pad_value: value of the padded pixels.
      initializer: draws the latent weights, as a function of jax.nn.initializers; None means that the kernel quantizer draws them.
      rngs: random streams; the layer draws its latent weights from "params".
    Raises:
      UserError: the padding is unknown, or the weights are binary and the input is real.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        size: int,
        stride: int = 1,
        *,
        input_quantizer: ActivationQuantizer | None,
        kernel_quantizer: WeightQuantizer,
        padding: str = "torch",
        pad_value: float = 0,
        initializer: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        if padding not in PADDINGS:
            raise UserError(f"padding is {padding!r}; one of: {', '.join(PADDINGS)}")
        binary = kernel_quantizer.bits == 1
        if binary and input_quantizer is not None and input_quantizer.levels is None:
            raise UserError(f"a convolution of real inputs, {input_quantizer}, has real weights: its kernel_quantizer is RealWeight()")
        self.stride, self.padding, self.pad_value = stride, padding, pad_value
        self.input_quantizer, self.kernel_quantizer = input_quantizer, kernel_quantizer
        values = (initializer or kernel_quantizer.initialize)(rngs.params(), (size, size, inputs, features))
        kind = LatentWeight if binary else nnx.Param
        self.kernel = kind(values, quantizer=kernel_quantizer, bounds=kernel_quantizer.bounds, decay="weights")

    def __call__(
        self,
        x: jax.Array,
        temperature: jax.Array | float | None = None,
        *,
        shift: jax.Array | None = None,
        binarizes: jax.Array | bool = True,
        dtype: Any = None,
    ) -> jax.Array:
        """Quantizes the input and the kernel, and convolves them.

        Args:
          x: [N, H, W, inputs], any floating type.
          temperature: scalar T for the kernel quantizer.
          shift: [inputs], added to x before the input quantizer; None adds nothing.
          binarizes: boolean scalar; False multiplies with the latent weights as they are.
          dtype: type of the sums and of the output; None means the type of x.
        Returns:
          [N, ceil(H/stride), ceil(W/stride), features].
        """
        binary = x if self.input_quantizer is None else self.input_quantizer(x, shift)
        kernel = self.kernel_quantizer(self.kernel[...], temperature)
        if binarizes is not True:
            kernel = jnp.where(binarizes, kernel, self.kernel[...])
        kernel, size = kernel.astype(x.dtype), self.kernel.shape[0]
        pads = border(x.shape[1:3], size, self.stride, size // 2 if self.padding == "torch" else "SAME")
        if self.pad_value == 0 and pads == ((size // 2, size // 2),) * 2:
            return convolution(binary, kernel, self.stride, dtype)
        padded = jnp.pad(binary, ((0, 0), *pads, (0, 0)), constant_values=self.pad_value)
        return plain(padded, kernel, self.stride, dtype, pads=((0, 0), (0, 0)))
