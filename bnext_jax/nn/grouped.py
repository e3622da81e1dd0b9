"""Grouped convolutions with one lowering per platform.

XLA's grouped convolution is slow on a CPU, above all its gradients: 5 to 40 times as slow as k * k shifted views, each multiplied with one
tap of every group. So the code uses the views there, and XLA's convolution on other platforms. Both forms compute the same sums in a
different order. bnext_jax.nn.lowering chooses the form. Depthwise convolutions of EfficientNets have a form of their own (depthwise).
"""

import functools

import jax
import jax.numpy as jnp

from bnext_jax.nn import lowering
from bnext_jax.nn.convolution import plain

Pads = tuple[tuple[int, int], ...]


def _plain(x, kernel, stride, groups, pads):
    return plain(x, kernel, stride, groups=groups, pads=pads)


def _taps(x, kernel, stride, groups, pads):
    size, _, own, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    sides = [(side + sum(pad) - size) // stride + 1 for side, pad in zip(x.shape[1:3], pads, strict=True)]
    height, width = (stride * (side - 1) + 1 for side in sides)
    taps = kernel.reshape(size, size, own, groups, features // groups)

    def product(i, j):
        view = padded[:, i : i + height : stride, j : j + width : stride].reshape(x.shape[0], *sides, groups, own)
        return view * taps[i, j, 0] if own == 1 else jnp.einsum("nhwgi,igo->nhwgo", view, taps[i, j])

    products = [product(i, j) for i in range(size) for j in range(size)]
    return functools.reduce(jnp.add, products).reshape(x.shape[0], *sides, features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def grouped_convolution(x: jax.Array, kernel: jax.Array, stride: int, groups: int, pads: Pads) -> jax.Array:
    """Convolves a map with zero padding. Each group of output channels reads its own group of input channels.

    Args:
      x: [N,H,W,C], any floating type.
      kernel: [k,k,C/groups,O], the type of x.
      stride: positive integer, in pixels.
      groups: number of groups; divides C and O.
      pads: ((top, bottom), (left, right)), in pixels.
    Returns:
      [N,H',W',O].
    """
    forward = _taps if kernel.shape[2] == 1 else _plain  # with several channels in a group, XLA's forward pass is the faster one
    return lowering.choose(lambda x, k: forward(x, k, stride, groups, pads), lambda x, k: _plain(x, k, stride, groups, pads), x, kernel)


def _forward(x, kernel, stride, groups, pads):
    return grouped_convolution(x, kernel, stride, groups, pads), (x, kernel)


def _backward(stride, groups, pads, saved, cotangent):
    def gradient(form, which):
        return lambda x, k, g: jax.vjp(lambda x, k: form(x, k, stride, groups, pads), x, k)[1](g)[which]

    return tuple(lowering.choose(gradient(_taps, which), gradient(_plain, which), *saved, cotangent) for which in (0, 1))


grouped_convolution.defvjp(_forward, _backward)
