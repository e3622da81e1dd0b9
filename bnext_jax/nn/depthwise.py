"""Depthwise convolutions with one lowering per platform.

XLA's depthwise convolution is slow on a CPU: its output and its gradients take 1.5 to 20 times as long as a sum of k * k shifted
and scaled views. So the code uses the sum there, and XLA's convolution on other platforms. Both forms compute the same sums in a
different order. bnext_jax.nn.lowering chooses the form.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.nn import lowering
from bnext_jax.nn.convolution import plain
from bnext_jax.nn.layers import Conv, accumulation_dtype


def _plain(x, kernel, stride, pads):
    return plain(x, kernel, stride, groups=x.shape[-1], pads=pads)


def _view(padded, i, j, stride, shape):
    """The strided view of `padded` [N,.,.,C] that kernel tap (i, j) multiplies: [N,H',W',C] for shape = (H', W')."""
    n, _, _, channels = padded.shape
    extents = [stride * (side - 1) + 1 for side in shape]
    return lax.dynamic_slice(padded, (0, i, j, 0), (n, *extents, channels))[:, ::stride, ::stride]


def _sum_of_taps(padded, kernel, stride, shape):
    """Sum over taps (i, j) of view(i, j) * kernel[i, j]: [N,H',W',C] for shape = (H', W'). Sums in at least float32."""
    size, total = kernel.shape[0], accumulation_dtype(padded.dtype)
    products = [_view(padded, i, j, stride, shape).astype(total) * kernel[i, j, 0].astype(total) for i in range(size) for j in range(size)]
    return functools.reduce(jnp.add, products).astype(padded.dtype)


def _pad(x, pads):
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _cpu_forward(x, kernel, stride, pads):
    shape = [(side + sum(pad) - kernel.shape[0]) // stride + 1 for side, pad in zip(x.shape[1:3], pads, strict=True)]
    return _sum_of_taps(_pad(x, pads), kernel, stride, shape)


def _cpu_input_gradient(cotangent, kernel, stride, pads, shape):
    """Input gradient of shape [N,H,W,C].

    It is the cotangent with stride - 1 zeros between its positions, convolved with the kernel rotated by 180 degrees.
    """
    size = kernel.shape[0]
    edges = [
        (size - 1 - before, side - 1 + before - stride * (out - 1), stride - 1)
        for side, out, (before, _) in zip(shape[1:3], cotangent.shape[1:3], pads, strict=True)
    ]
    spread = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return _sum_of_taps(spread, kernel[::-1, ::-1], 1, shape[1:3])


def _cpu_kernel_gradient(x, cotangent, size, stride, pads):
    padded, total = _pad(x, pads), accumulation_dtype(x.dtype)

    def tap(index):
        view = _view(padded, index // size, index % size, stride, cotangent.shape[1:3])
        return (view.astype(total) * cotangent.astype(total)).sum((1, 2)).sum(0)

    # A loop over taps, because XLA's CPU compiler turns each tap's product and sum into a slow pass if it sees all taps at once.
    grads = lax.map(tap, jnp.arange(size * size))
    return grads.reshape(size, size, 1, -1).astype(x.dtype)


def _transposed(form, like, cotangent):
    return jax.linear_transpose(form, like)(cotangent)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_convolution(x: jax.Array, kernel: jax.Array, stride: int, pads: tuple[tuple[int, int], ...]) -> jax.Array:
    """Convolves each channel with its own kernel, with zero padding.

    y[n,i,j,c] = sum over taps (u,v) of x[n, i*stride+u-top, j*stride+v-left, c] * kernel[u,v,0,c].
    Both gradients are the exact transposes of this linear map.

    Args:
      x: [N, H, W, C]; float16, bfloat16, float32 or float64.
      kernel: [k, k, 1, C], the type of x.
      stride: positive integer, in pixels.
      pads: ((top, bottom), (left, right)) in pixels, each less than k.
    Returns:
      [N, (H + top + bottom - k) // stride + 1, (W + left + right - k) // stride + 1, C], the type of x.
    """
    return lowering.choose(lambda x, k: _cpu_forward(x, k, stride, pads), lambda x, k: _plain(x, k, stride, pads), x, kernel)


def _forward(x, kernel, stride, pads):
    return depthwise_convolution(x, kernel, stride, pads), (x, kernel)


def _backward(stride, pads, saved, cotangent):
    x, kernel = saved
    grad_x = lowering.choose(
        lambda g, k: _cpu_input_gradient(g, k, stride, pads, x.shape),
        lambda g, k: _transposed(lambda x: _plain(x, k, stride, pads), jax.ShapeDtypeStruct(x.shape, x.dtype), g),
        cotangent,
        kernel,
    )
    grad_kernel = lowering.choose(
        lambda x, g: _cpu_kernel_gradient(x, g, kernel.shape[0], stride, pads),
        lambda x, g: _transposed(lambda k: _plain(x, k, stride, pads), jax.ShapeDtypeStruct(kernel.shape, x.dtype), g),
        x,
        cotangent,
    )
    return grad_x, grad_kernel


depthwise_convolution.defvjp(_forward, _backward)


class DepthwiseConv(Conv):
    """A depthwise convolution: one kernel per channel.

    Args:
      features: channels, in and out.
      size: side of the kernel, odd.
      stride: positive integer, in pixels.
      padding: see Conv.
      bias: whether the layer has a bias.
      rngs: random streams; the layer draws its parameters from "params".
    """

    def __init__(
        self, features: int, size: int, stride: int = 1, *, padding: int | Literal["SAME"] | None = None, bias: bool = False, rngs: nnx.Rngs
    ) -> None:
        super().__init__(features, features, size, stride, padding=padding, groups=features, bias=bias, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves a map [N,H,W,C] to [N,ceil(H/stride),ceil(W/stride),C], in the type of x."""
        y = depthwise_convolution(x, self.kernel[...].astype(x.dtype), self.stride, self.pads(x))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)
