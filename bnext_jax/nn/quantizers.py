"""Quantizers: how a sign is taken, what its gradient pretends to be, how weights are scaled. Data, not code in a network.

An *activation quantizer* maps a real map to one of two levels. A *weight quantizer* maps a latent weight, the real number that
the optimizer updates, to what a convolution multiplies with. Both are frozen dataclasses of plain values: they can be
compared and hashed, so a layer may hold one as a static attribute (Flax NNX hashes those under jit). What changes during
training is not theirs: the temperature is an argument.

The gradient of a sign is 0 almost everywhere, so each quantizer replaces it by another: a straight-through estimator (STE;
Bengio, Leonard and Courville 2013, arXiv 1308.3432). Names follow larq's where larq has the quantizer.
"""

import abc
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from bnext_jax.errors import UserError
from bnext_jax.nn.layers import accumulation_dtype


class ActivationQuantizer(abc.ABC):
    """What a layer, `count`, `plot features` and the packed engine may ask of an activation quantizer.

    Attributes:
      levels: (low, high), the two values that __call__ gives.
      at_zero: the value that __call__ gives where its input is exactly 0; it may be a third one.
    """

    levels: tuple[float, float]
    at_zero: float

    @abc.abstractmethod
    def __call__(self, x, shift=None):
        """Quantizes a map.

        Args:
          x: any shape [..., C], any floating type.
          shift: [C], added to x before it is quantized; None = nothing is added.
        Returns:
          The shape and type of x.
        """


class WeightQuantizer(abc.ABC):
    """What a layer, the optimizer's step, `count`, the training log, checkpoints and the packed engine may ask of a weight quantizer.

    Attributes:
      bits: of one stored weight.
      bounds: (low, high) that latent weights are kept in after each update, or None.
    """

    bits = 1
    bounds: tuple[float, float] | None = None

    @abc.abstractmethod
    def __call__(self, latent, temperature):
        """Quantizes latent weights.

        Args:
          latent: [..., O], any floating type; O = output channels.
          temperature: scalar of the run's annealing; a quantizer without one ignores it.
        Returns:
          What the convolution multiplies with: the shape and type of latent.
        """

    def signs(self, latent):
        """-1, 0 or +1 of each latent weight, the type of latent."""
        return jnp.sign(latent)

    def scale(self, latent):
        """Factors of the output channels that the signs are multiplied with, [O], or None where there are none."""
        del latent
        return None

    def is_exact(self, temperature):
        """Whether __call__ gives signs times scale, exactly, at this temperature (a Python number)."""
        del temperature
        return True

    def binary(self, latent, temperature):
        """Whether each weight that __call__ gives is exactly +1 or -1 times its channel's scale: booleans, the shape of latent."""
        scale = self.scale(latent)
        return jnp.abs(self(latent, temperature)) == (1 if scale is None else jnp.abs(scale))

    def initialize(self, key, shape):
        """Latent weights at first: PyTorch's U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for a kernel of shape [k, k, I, O]."""
        bound = math.prod(shape[:-1]) ** -0.5
        return jax.random.uniform(key, (math.prod(shape),), minval=-bound, maxval=bound).reshape(shape)


def _shifted(x, shift):
    """x + shift, added in at least float32: a bfloat16 map would not see shifts below its rounding."""
    return x if shift is None else x.astype(accumulation_dtype(x.dtype)) + shift.astype(accumulation_dtype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ste_sign(quantizer, x, shift):
    shifted = _shifted(x, shift)
    if quantizer.at_zero == 0:
        return jnp.sign(shifted).astype(x.dtype)
    return jnp.where(shifted >= 0 if quantizer.at_zero > 0 else shifted > 0, 1, -1).astype(x.dtype)


def _ste_sign_backward(quantizer, saved, cotangent):
    x, shift = saved
    passed = jnp.where(jnp.abs(_shifted(x, shift)) <= quantizer.clip_value, cotangent, jnp.zeros_like(cotangent))
    if shift is None:
        return passed, None
    # First over positions, then over images: for a TPU, XLA sums in the pass that writes the gradient of x (benchmarks/tpu_step.py).
    summed = passed.astype(accumulation_dtype(x.dtype)).sum(tuple(range(1, x.ndim - 1)))
    return passed, (summed.sum(0) if x.ndim > 1 else summed).astype(shift.dtype)


_ste_sign.defvjp(lambda quantizer, x, shift: (_ste_sign(quantizer, x, shift), (x, shift)), _ste_sign_backward)


@dataclasses.dataclass(frozen=True)
class SteSign(ActivationQuantizer):
    """The sign with a clipped straight-through estimator (Hubara et al. 2016, arXiv 1602.02830; larq's SteSign).

    Forward: sign(x + shift). Backward: dL/dx = dL/dy where |x + shift| <= clip_value, else 0; dL/dshift is its sum.
    BNext's activations: SteSign(clip_value=1.5), sign(0) = 0.

    Attributes:
      clip_value: half the width of the window in which the gradient passes.
      at_zero: sign(0): 0, +1 or -1. larq takes +1, PyTorch's sign and BNext's reference 0.
      levels: (-1, 1). (0, 1) says that the input is never negative, as behind a ReLU; sign(0) is 0 then.
    Raises:
      UserError: other levels, or another value at 0.
    """

    clip_value: float = 1.0
    at_zero: float = 0.0
    levels: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self):
        if self.levels not in ((-1, 1), (0, 1)) or self.at_zero not in ((0,) if self.levels[0] == 0 else (-1, 0, 1)):
            raise UserError(f"a sign has the levels (-1, 1), or (0, 1) with 0 at 0, not {self.levels} with {self.at_zero} at 0")

    def __call__(self, x, shift=None):
        """sign(x + shift), see the class: the shape and type of x."""
        return _ste_sign(self, x, shift)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _annealed_sign(exact_below, latent, temperature):
    temperature = jnp.asarray(temperature).astype(accumulation_dtype(latent.dtype))
    soft = jnp.clip(latent.astype(accumulation_dtype(latent.dtype)) / jnp.maximum(temperature, 1e-8), -1, 1).astype(latent.dtype)
    return jnp.where(temperature < exact_below, jnp.sign(latent), soft)


def _annealed_sign_forward(exact_below, latent, temperature):
    return _annealed_sign(exact_below, latent, temperature), jnp.asarray(temperature)


_annealed_sign.defvjp(_annealed_sign_forward, lambda exact_below, temperature, cotangent: (cotangent, jnp.zeros_like(temperature)))


@dataclasses.dataclass(frozen=True)
class AnnealedSign(WeightQuantizer):
    """BNext's weights: a clipped line that a falling temperature T turns into the sign (Guo et al. 2022, arXiv 2211.12933).

    Forward: clip(w / max(T, 1e-8), -1, 1) while T >= exact_below, sign(w) below it; sign(0) = 0.
    Backward: dL/dw = dL/d(output), without a mask and without 1/T. T gets no gradient. There is no scale.

    Attributes:
      exact_below: temperature below which the sign is exact: 1e-7 in BNext-T, S, M and L, 1e-5 in BNext-18.
      bound: latent weights are kept in [-bound, bound].
      deviation: standard deviation of latent weights at first.
    """

    exact_below: float = 1e-7
    bound: float = 1.5
    deviation: float = 1e-3

    @property
    def bounds(self):
        """(-bound, bound)."""
        return (-self.bound, self.bound)

    def __call__(self, latent, temperature):
        """The forward formula of the class: the shape and type of latent."""
        return _annealed_sign(self.exact_below, latent, temperature)

    def is_exact(self, temperature):
        """Whether T < exact_below."""
        return temperature < self.exact_below

    def initialize(self, key, shape):
        """Normal latent weights of standard deviation `deviation`."""
        return self.deviation * jax.random.normal(key, (math.prod(shape),)).reshape(shape)
