"""Dense k x k convolutions with PyTorch's padding (k // 2 pixels on all sides) and one lowering per platform.

Accelerators run XLA's convolution. On a CPU, XLA's lowering is slow for the kernel gradient, and for strided or low-resolution
convolutions. There the code uses k * k matrix products over shifted views instead (measured by benchmarks/train_step.py).
Both forms compute the same sums in a different order. bnext_jax.nn.lowering chooses the form.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from bnext_jax.nn import lowering

# Below this number of output positions per image, a sum of matrix products is faster than XLA's CPU convolution.
FEW_POSITIONS = 100


def border(sides: Sequence[int], size: int, stride: int, padding: int | Literal["SAME"]) -> tuple[tuple[int, int], ...]:
    """The padding ((top, bottom), (left, right)) of a convolution, in pixels.

    Args:
      sides: (H, W) of the map.
      size: side of the kernel.
      stride: in pixels.
      padding: pixels on all sides. "SAME" is TensorFlow's rule: ceil(side / stride) output positions, and an odd pixel goes to the bottom
        and to the right.
    """
    if padding == "SAME":
        return tuple(lax.padtype_to_pads(sides, (size, size), (stride, stride), "SAME"))
    return ((padding, padding),) * 2


def plain(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    dtype: Any = None,
    groups: int = 1,
    pads: Sequence[tuple[int, int]] | None = None,
) -> jax.Array:
    """XLA's convolution, the form for accelerators.

    Args:
      x: see `convolution`.
      kernel: [k, k, C / groups, O], the type of x.
      stride: see `convolution`.
      dtype: see `convolution`.
      groups: number of feature groups.
      pads: ((top, bottom), (left, right)) in pixels; None means k // 2 on all sides.
    Returns:
      [N, H', W', O]. With the default pads H' = ceil(H/stride), and W' likewise.
    """
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad), (pad, pad)] if pads is None else pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=dtype,
    )


def _taps(x, size, stride):
    """The size * size shifted and strided views of zero-padded x [N,H,W,C]. Each is [N*H'*W', C]; taps come row by row."""
    n, height, width, channels = x.shape
    if size == stride == 1:
        return [x.reshape(n * height * width, channels)]
    pad = size // 2
    out_h, out_w = -(-height // stride), -(-width // stride)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    last_h, last_w = stride * (out_h - 1) + 1, stride * (out_w - 1) + 1
    return [
        padded[:, i : i + last_h : stride, j : j + last_w : stride].reshape(n * out_h * out_w, channels)
        for i in range(size)
        for j in range(size)
    ]


def _matmul(x, kernel, stride, dtype):
    """The convolution of `plain`, computed as a sum of k * k matrix products."""
    size, _, inputs, features = kernel.shape
    taps = kernel.reshape(size * size, inputs, features)
    products = [jnp.matmul(view, tap, preferred_element_type=dtype) for view, tap in zip(_taps(x, size, stride), taps, strict=True)]
    out_h, out_w = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    return functools.reduce(jnp.add, products).reshape(x.shape[0], out_h, out_w, features)


def _cpu_forward(x, kernel, stride, dtype):
    positions = (x.shape[1] // stride) * (x.shape[2] // stride)
    form = _matmul if positions < FEW_POSITIONS or kernel.shape[0] == 1 else plain
    return form(x, kernel, stride, dtype)


def _transpose_input(form, cotangent, kernel, stride, shape):
    like = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    return jax.linear_transpose(lambda x: form(x, kernel, stride, cotangent.dtype), like)(cotangent)[0]


def _cpu_input_gradient(cotangent, kernel, stride, shape):
    if stride == 1:  # the transpose of a stride-1 convolution is a convolution with the kernel rotated by 180 degrees
        return _cpu_forward(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), 1, cotangent.dtype)
    return _transpose_input(_matmul, cotangent, kernel, stride, shape)


def _plain_kernel_gradient(x, cotangent, size, stride):
    like = jax.ShapeDtypeStruct((size, size, x.shape[-1], cotangent.shape[-1]), cotangent.dtype)
    return jax.linear_transpose(lambda k: plain(x, k, stride, cotangent.dtype), like)(cotangent)[0]


def _cpu_kernel_gradient(x, cotangent, size, stride):
    flat = cotangent.reshape(-1, cotangent.shape[-1])
    grads = [jnp.matmul(view.T, flat) for view in _taps(x, size, stride)]
    return jnp.stack(grads).reshape(size, size, x.shape[-1], cotangent.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: jax.Array, kernel: jax.Array, stride: int = 1, dtype: Any = None) -> jax.Array:
    """Convolves with zero padding of k // 2 pixels on all sides.

    y[n,i,j,o] = sum over taps (u,v) and channels c of x[n, i*stride+u-k//2, j*stride+v-k//2, c] * kernel[u,v,c,o].
    Both gradients are the exact transposes of this linear map.

    Args:
      x: [N, H, W, C]; float16, bfloat16, float32 or float64.
      kernel: [k, k, C, O] with odd k, the type of x.
      stride: positive integer, in pixels.
      dtype: type of the sums and of the result; None means the type of x. With float32, sums of +-1 are exact (below 2^24 terms)
          even where x is bfloat16.
    Returns:
      [N, ceil(H/stride), ceil(W/stride), O].
    """
    return lowering.choose(lambda x, k: _cpu_forward(x, k, stride, dtype), lambda x, k: plain(x, k, stride, dtype), x, kernel)


def _forward(x, kernel, stride, dtype):
    return convolution(x, kernel, stride, dtype), (x, kernel)


def _backward(stride, dtype, saved, cotangent):
    x, kernel = saved
    cotangent = cotangent.astype(x.dtype)
    grad_x = lowering.choose(
        lambda g, k: _cpu_input_gradient(g, k, stride, x.shape),
        lambda g, k: _transpose_input(plain, g, k, stride, x.shape),
        cotangent,
        kernel,
    )
    grad_kernel = lowering.choose(
        lambda x, g: _cpu_kernel_gradient(x, g, kernel.shape[0], stride),
        lambda x, g: _plain_kernel_gradient(x, g, kernel.shape[0], stride),
        x,
        cotangent,
    )
    return grad_x, grad_kernel


convolution.defvjp(_forward, _backward)
