"""Quantizers: the forward rule of a sign, its gradient rule and its scale. A quantizer is data that a network holds.

An *activation quantizer* maps each value of a feature map to one of two levels. A *weight quantizer* maps a latent weight to the
value that a convolution multiplies with. The latent weight is the real number that the optimizer updates. This module has the
interfaces and the activation quantizers; the weight quantizers are in module weight_quantizers.

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

AQT_EDGE = 1 - 2.0**-7  # AQT's 1-bit quantizers pass gradients up to this share of their bound


class ActivationQuantizer(abc.ABC):
    """The interface of activation quantizers. Layers, `count`, `plot features` and the packed engine use it.

    Attributes:
      levels: (low, high), the two values that __call__ returns. None means that it returns real values.
      at_zero: the value that __call__ returns where its input is exactly 0. It may be a third value.
    """

    levels: tuple[float, float] | None
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
      bits: bits of one stored weight. 1 means binary weights, 32 real ones, which no part of bnext_jax counts or packs as binary.
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

    def latent(self, signs: jax.Array, scale: jax.Array) -> jax.Array:
        """Latent weights that __call__ turns into signs * scale. signs: [..., O], +1 and -1; scale: [O], see `scale`."""
        return signs * scale

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


def sign(x: jax.Array, at_zero: float) -> jax.Array:
    """The sign of x: -1, +1, and at_zero (-1, 0 or +1) where x is exactly 0. The shape and type of x."""
    if at_zero == 0:
        return jnp.sign(x)
    return jnp.where(x >= 0 if at_zero > 0 else x > 0, 1, -1).astype(x.dtype)


def check_at_zero(at_zero: float) -> None:
    """Raises UserError unless at_zero is -1, 0 or 1."""
    if at_zero not in (-1, 0, 1):
        raise UserError(f"at_zero is {at_zero}; the sign of 0 is -1, 0 or 1")


def shifted(x, shift):
    """x + shift, added in at least float32. In bfloat16, rounding would lose small shifts."""
    return x if shift is None else x.astype(accumulation_dtype(x.dtype)) + shift.astype(accumulation_dtype(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _estimated(quantizer, x, shift):
    return quantizer.forward(shifted(x, shift)).astype(x.dtype)


def _estimated_backward(quantizer, saved, cotangent):
    x, shift = saved
    passed = quantizer.backward(shifted(x, shift), cotangent)
    if shift is None:
        return passed, None
    # Sums over positions first, then over images. In this order XLA for TPU sums in the pass that writes the gradient of x
    # (benchmarks/tpu_step.py).
    summed = passed.astype(accumulation_dtype(x.dtype)).sum(tuple(range(1, x.ndim - 1)))
    return passed, (summed.sum(0) if x.ndim > 1 else summed).astype(shift.dtype)


_estimated.defvjp(lambda quantizer, x, shift: (_estimated(quantizer, x, shift), (x, shift)), _estimated_backward)


class EstimatedSign(ActivationQuantizer):
    """A sign with an estimated gradient: the base of the signs below. A subclass has `forward` and `backward`.

    dL/dshift is the sum of dL/dx over all axes but the channels.
    """

    @abc.abstractmethod
    def forward(self, x: jax.Array) -> jax.Array:
        """The levels of x, in the shape of x."""

    @abc.abstractmethod
    def backward(self, x: jax.Array, gradient: jax.Array) -> jax.Array:
        """dL/dx from x and gradient = dL/dy, in the shape and type of gradient."""

    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        """Quantizes x + shift. The shape and type of x. See the class."""
        return _estimated(self, x, shift)


@dataclasses.dataclass(frozen=True)
class SteSign(EstimatedSign):
    """The sign with a clipped straight-through estimator (Hubara et al. 2016, arXiv 1602.02830; larq's SteSign).

    Forward: y = sign(x + shift).
    Backward: dL/dx = dL/dy where abs(x + shift) <= clip_value, else 0.

    Used by BNext, clip_value 1.5 and sign(0) = 0; XNOR-Net, clip_value 1, not inclusive, sign(0) = 0; Real-to-Binary and bitorch's
    MeliusNet, clip_value 1, sign(0) = +1; larq's MeliusNet, clip_value 1.3, sign(0) = +1. BNN has clip_value inf behind a hard tanh,
    which has the mask.

    Attributes:
      clip_value: half the width of the window in which the gradient passes. inf = everywhere.
      at_zero: sign(0): 0, +1 or -1. It is +1 in larq, and 0 in PyTorch and in BNext's reference code.
      levels: (-1, 1), or (0, 1) for an input that is never negative, for example after a ReLU. With (0, 1), at_zero must be 0.
      inclusive: whether the gradient passes where abs(x + shift) is exactly clip_value.
    Raises:
      UserError: other levels, or another at_zero.
    """

    clip_value: float = 1.0
    at_zero: float = 0.0
    levels: tuple[float, float] = (-1.0, 1.0)
    inclusive: bool = True

    def __post_init__(self):
        if self.levels not in ((-1, 1), (0, 1)) or self.at_zero not in ((0,) if self.levels[0] == 0 else (-1, 0, 1)):
            raise UserError(
                f"a sign has the levels (-1, 1) with at_zero -1, 0 or 1, or the levels (0, 1) with at_zero 0;"
                f" got levels {self.levels} with at_zero {self.at_zero}"
            )

    def forward(self, x: jax.Array) -> jax.Array:
        """sign(x)."""
        return sign(x, self.at_zero)

    def backward(self, x: jax.Array, gradient: jax.Array) -> jax.Array:
        """The gradient inside the window, else 0."""
        inside = jnp.abs(x) <= self.clip_value if self.inclusive else jnp.abs(x) < self.clip_value
        return jnp.where(inside, gradient, jnp.zeros_like(gradient))


@dataclasses.dataclass(frozen=True)
class ApproxSign(EstimatedSign):
    """The sign whose gradient is that of a piecewise square (Liu et al. 2018, arXiv 1808.00278, equation 8; larq's ApproxSign).

    Forward: y = sign(x + shift).
    Backward: dL/dx = dL/dy * 2 (1 - abs(x + shift)) where abs(x + shift) <= 1, else 0.

    Used by Bi-Real Net and ReActNet, sign(0) = 0.

    Attributes:
      at_zero: sign(0): 0, +1 or -1. It is +1 in larq, and 0 in the authors' code.
    Raises:
      UserError: another at_zero.
    """

    at_zero: float = 0.0
    levels = (-1.0, 1.0)

    def __post_init__(self):
        check_at_zero(self.at_zero)

    def forward(self, x: jax.Array) -> jax.Array:
        """sign(x)."""
        return sign(x, self.at_zero)

    def backward(self, x: jax.Array, gradient: jax.Array) -> jax.Array:
        """The gradient times the slope of the square."""
        return gradient * jnp.maximum(2 * (1 - jnp.abs(x)), 0).astype(gradient.dtype)


@dataclasses.dataclass(frozen=True)
class AqtSign(EstimatedSign):
    """AQT's 1-bit activation quantizer (Zhang et al. 2021, PokeBNN, arXiv 2112.00133).

    Forward: y = +bound / 2 where x + shift >= 0, else -bound / 2.
    Backward: dL/dx = dL/dy where abs(x + shift) < (1 - 2^-7) bound; half of it where both are equal; else 0.

    Attributes:
      bound: B, 3 in PokeBNN.
    """

    bound: float = 3.0

    @property
    def levels(self) -> tuple[float, float]:  # type: ignore[override]  # a property in place of an attribute
        """(-bound / 2, bound / 2)."""
        return (-self.bound / 2, self.bound / 2)

    @property
    def at_zero(self) -> float:  # type: ignore[override]
        """bound / 2."""
        return self.bound / 2

    def forward(self, x: jax.Array) -> jax.Array:
        """The high level where x >= 0, else the low level."""
        return jnp.where(x >= 0, self.bound / 2, -self.bound / 2)

    def backward(self, x: jax.Array, gradient: jax.Array) -> jax.Array:
        """The gradient inside the window, half of it on its edge."""
        return gradient * clip_slope(x, self.bound * AQT_EDGE).astype(gradient.dtype)


def clip_slope(x: jax.Array, limit: jax.Array | float) -> jax.Array:
    """The derivative of clip(x, -limit, limit) as AQT has it: 1 inside, 1/2 where abs(x) is exactly the limit, 0 outside."""
    magnitude = jnp.abs(x)
    return jnp.where(magnitude < limit, 1.0, jnp.where(magnitude == limit, 0.5, 0.0))
