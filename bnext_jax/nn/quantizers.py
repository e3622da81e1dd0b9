"""The binary core: sign with a straight-through estimator (STE), temperature-annealed latent weights, binary convolution.

Section 3 of the paper and the behaviour of its code. A *latent* weight is the real number that the optimiser updates;
the *binary* weight is what the forward pass multiplies with: clip(latent / temperature) during training, +-1 at its end.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.nn.convolution import convolution
from bnext_jax.nn.layers import wide

ACTIVATION_CLIP = 1.5  # half width of the window in which the sign's straight-through gradient is 1
LATENT_BOUND = 1.5  # latent weights are kept in [-LATENT_BOUND, LATENT_BOUND]
SIGN_BELOW = 1e-7  # temperatures below this give exact signs (BNext-18: SIGN_BELOW_18)
SIGN_BELOW_18 = 1e-5
LATENT_DEVIATION = 1e-3  # standard deviation of latent weights at first


class LatentWeight(nnx.Param):
    """A real weight behind a binary one. Metadata: bounds=(-1.5, 1.5), the weight-decay group, sign_below (see binarize_weight)."""


@jax.custom_vjp
def hard_sign(x, shift=None):
    """Forward: sign(x + shift) in {-1, 0, +1}, sign(0) = 0. Backward: dL/dx = dL/dy where |x + shift| <= 1.5, else 0 (clipped STE).

    Args:
      x: any shape, any floating type. shift: [C], one a channel of x [..., C]; None = 0. It is added in at least float32, or
        a bfloat16 map would not see shifts below its rounding.
    Returns:
      The shape and type of x.
    """
    return jnp.sign(_shifted(x, shift)).astype(x.dtype)


def _shifted(x, shift):
    return x if shift is None else x.astype(wide(x.dtype)) + shift.astype(wide(x.dtype))


def _sign_backward(saved, cotangent):
    x, shift = saved
    passed = jnp.where(jnp.abs(_shifted(x, shift)) <= ACTIVATION_CLIP, cotangent, jnp.zeros_like(cotangent))
    if shift is None:
        return passed, None
    # summed over positions, then images: so XLA does it, for a TPU, in the pass that writes the gradient of x (benchmarks/tpu_step.py)
    return passed, passed.astype(wide(x.dtype)).sum(tuple(range(1, x.ndim - 1))).sum(0).astype(shift.dtype)


hard_sign.defvjp(lambda x, shift: (hard_sign(x, shift), (x, shift)), _sign_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def binarize_weight(weight, temperature, sign_below=SIGN_BELOW):
    """Forward: clip(w / max(T, 1e-8), -1, 1) where T >= sign_below, else sign(w). Backward: dL/dw = dL/d(output), unmasked, no 1/T.

    Args:
      weight: latent weights w, any shape, any floating type.
      temperature: T, a scalar (array or number), no unit. It receives no gradient.
      sign_below: the temperature under which the sign is exact: 1e-7, BNext-18 1e-5.
    Returns:
      The shape and type of weight; exactly +-1 (or 0 where w = 0) once T < sign_below.
    """
    temperature = jnp.asarray(temperature).astype(wide(weight.dtype))
    soft = jnp.clip(weight.astype(wide(weight.dtype)) / jnp.maximum(temperature, 1e-8), -1, 1).astype(weight.dtype)
    return jnp.where(temperature < sign_below, jnp.sign(weight), soft)


def _weight_forward(weight, temperature, sign_below):
    return binarize_weight(weight, temperature, sign_below), jnp.asarray(temperature)


def _weight_backward(sign_below, temperature, cotangent):
    return cotangent, jnp.zeros_like(temperature)


binarize_weight.defvjp(_weight_forward, _weight_backward)


class BinaryConv(nnx.Module):
    """conv_k(b, binarize_weight(w, T)) for a binary map b; no bias, no scaling factor.

    The zero padding is applied after the sign, so border taps contribute 0 and not +-1.

    Args:
      inputs, features: channels in and out.
      size: 1 or 3 (kernel side). stride: 1 or 2; a 1x1 convolution has stride 1.
      sign_below: see binarize_weight.
    """

    def __init__(self, inputs, features, size, stride=1, *, sign_below=SIGN_BELOW, rngs):
        self.stride, self.sign_below = stride, sign_below
        shape = (size, size, inputs, features)
        values = LATENT_DEVIATION * jax.random.normal(rngs.params(), (math.prod(shape),)).reshape(shape)
        bounds = (-LATENT_BOUND, LATENT_BOUND)
        self.kernel = LatentWeight(values, bounds=bounds, decay="weights", sign_below=sign_below)

    def __call__(self, x, temperature, dtype=None):
        """x [N,H,W,C], T scalar -> [N, ceil(H/stride), ceil(W/stride), O] in `dtype` (None: that of x)."""
        binary = binarize_weight(self.kernel[...], temperature, self.sign_below).astype(x.dtype)
        return convolution(x, binary, self.stride, dtype)
