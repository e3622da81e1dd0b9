"""Quantizers: the forward rule of a sign, its gradient rule and its scale. A quantizer is data that a network holds.

An *activation quantizer* maps each value of a feature map to one of two levels. A *weight quantizer* maps a latent weight to the
value that a convolution multiplies with. The latent weight is the real number that the optimizer updates.

Both are frozen dataclasses of plain values. They can be compared and hashed, so a layer may hold one as a static attribute
(Flax NNX hashes static attributes under jit). A quantizer holds nothing that changes during training: the temperature is an argument.

The gradient of a sign is 0 almost everywhere. So each quantizer uses a straight-through estimator (STE) instead (Bengio, Leonard and
Courville 2013, arXiv 1308.3432). A quantizer that larq also has bears larq's name.
"""

import abc
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from bnext_jax.errors import UserError
from bnext_jax.nn.layers import accumulation_dtype, uniform


class ActivationQuantizer(abc.ABC):
    """The interface of activation quantizers. Layers, `count`, `plot features` and the packed engine use it.

    Attributes:
      levels: (low, high), the two values that __call__ returns.
      at_zero: the value that __call__ returns where its input is exactly 0. It may be a third value.
    """

    levels: tuple[float, float]
    at_zero: float

    @abc.abstractmethod
    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        """Quantizes a feature map.

        Args:
          x: [..., C], any floating type.
          shift: [C], added to x before the quantization; None adds nothing.
        Returns:
          The shape and type of x.
        """


class WeightQuantizer(abc.ABC):
    """The interface of weight quantizers.

    Layers, the training step, `count`, the training log, checkpoints and the packed engine use it.

    Attributes:
      bits: bits of one stored weight.
    """

    bits = 1

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(low, high): each update clips the latent weights to this range. None means no range."""
        return None

    @abc.abstractmethod
    def __call__(self, latent: jax.Array, temperature: jax.Array | float | None) -> jax.Array:
        """Quantizes latent weights.

        Args:
          latent: [..., O], any floating type. O is the number of output channels.
          temperature: scalar T of the annealing schedule. A quantizer without annealing ignores it.
        Returns:
          The weights that the convolution multiplies with, in the shape and type of latent.
        """

    def signs(self, latent: jax.Array) -> jax.Array:
        """The sign of each latent weight: -1, 0 or +1, in the type of latent."""
        return jnp.sign(latent)

    def scale(self, latent: jax.Array) -> jax.Array | None:
        """The factors [O] of the output channels that multiply the signs. None means no factors."""
        del latent
        return None

    def is_exact(self, temperature: float | None) -> bool:
        """Whether __call__ returns exactly signs times scale at this temperature."""
        del temperature
        return True

    def binary(self, latent: jax.Array, temperature: jax.Array | float | None) -> jax.Array:
        """Whether each weight that __call__ returns is exactly +1 or -1 times its channel's scale: booleans, the shape of latent."""
        scale = self.scale(latent)
        return jnp.abs(self(latent, temperature)) == (1 if scale is None else jnp.abs(scale))

    def initialize(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws initial latent weights of shape [k, k, I, O]: PyTorch's U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
        return uniform(key, shape, math.prod(shape[:-1]))


def _shifted(x, shift):
    """x + shift, added in at least float32. In bfloat16, rounding would lose small shifts."""
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
    # Sums over positions first, then over images. In this order XLA for TPU sums in the pass that writes the gradient of x
    # (benchmarks/tpu_step.py).
    summed = passed.astype(accumulation_dtype(x.dtype)).sum(tuple(range(1, x.ndim - 1)))
    return passed, (summed.sum(0) if x.ndim > 1 else summed).astype(shift.dtype)


_ste_sign.defvjp(lambda quantizer, x, shift: (_ste_sign(quantizer, x, shift), (x, shift)), _ste_sign_backward)


@dataclasses.dataclass(frozen=True)
class SteSign(ActivationQuantizer):
    """The sign with a clipped straight-through estimator (Hubara et al. 2016, arXiv 1602.02830; larq's SteSign).

    Forward: y = sign(x + shift).
    Backward: dL/dx = dL/dy where abs(x + shift) <= clip_value, else 0. dL/dshift is the sum of dL/dx over all axes but the channels.
    BNext binarizes its activations with SteSign(clip_value=1.5), so with sign(0) = 0.

    Attributes:
      clip_value: half the width of the window in which the gradient passes.
      at_zero: sign(0): 0, +1 or -1. It is +1 in larq, and 0 in PyTorch and in BNext's reference code.
      levels: (-1, 1), or (0, 1) for an input that is never negative, for example after a ReLU. With (0, 1), at_zero must be 0.
    Raises:
      UserError: other levels, or another at_zero.
    """

    clip_value: float = 1.0
    at_zero: float = 0.0
    levels: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self):
        if self.levels not in ((-1, 1), (0, 1)) or self.at_zero not in ((0,) if self.levels[0] == 0 else (-1, 0, 1)):
            raise UserError(
                f"a sign has the levels (-1, 1) with at_zero -1, 0 or 1, or the levels (0, 1) with at_zero 0;"
                f" got levels {self.levels} with at_zero {self.at_zero}"
            )

    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        """sign(x + shift), in the shape and type of x. See the class."""
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
    """BNext's weight quantizer: a clipped line that becomes the sign as the temperature T falls (Guo et al. 2022, arXiv 2211.12933).

    Forward: clip(w / max(T, 1e-8), -1, 1) for T >= exact_below, and sign(w) for T < exact_below. sign(0) = 0.
    Backward: dL/dw = dL/d(output), without a mask and without the factor 1/T. The gradient of T is 0. There is no scale.

    Attributes:
      exact_below: below this temperature the sign is exact: 1e-7 in BNext-T, S, M and L, 1e-5 in BNext-18.
      bound: each update clips latent weights to [-bound, bound].
      deviation: standard deviation of the initial latent weights.
    """

    exact_below: float = 1e-7
    bound: float = 1.5
    deviation: float = 1e-3

    @property
    def bounds(self) -> tuple[float, float]:
        """(-bound, bound)."""
        return (-self.bound, self.bound)

    def __call__(self, latent: jax.Array, temperature: jax.Array | float | None) -> jax.Array:
        """Applies the forward formula of the class. The result has the shape and type of latent."""
        return _annealed_sign(self.exact_below, latent, temperature)

    def is_exact(self, temperature: float | None) -> bool:
        """Whether T < exact_below. False without a temperature."""
        return temperature is not None and temperature < self.exact_below

    def initialize(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draws initial latent weights from a normal distribution with standard deviation `deviation`."""
        return self.deviation * jax.random.normal(key, (math.prod(shape),)).reshape(shape)
