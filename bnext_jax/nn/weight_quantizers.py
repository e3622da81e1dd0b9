"""Weight quantizers: latent weights to the weights that a convolution multiplies with. See module quantizers for the interface.

One number a channel, the scale, is a mean or a maximum over all axes of the kernel but the last, the output channels.
"""

import abc
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from bnext_jax.errors import UserError
from bnext_jax.nn.aqt import EPSILON, weight_bound
from bnext_jax.nn.layers import accumulation_dtype
from bnext_jax.nn.quantizers import AQT_EDGE, WeightQuantizer, check_at_zero, sign


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _estimated(quantizer, latent):
    return quantizer.forward(latent)


_estimated.defvjp(
    lambda quantizer, latent: (quantizer.forward(latent), latent),
    lambda quantizer, latent, gradient: (quantizer.backward(latent, gradient),),
)


class EstimatedWeight(WeightQuantizer):
    """A sign of weights with an estimated gradient, without temperature: the base of the quantizers below.

    A subclass has `signs`, `backward`, and `scale` if its weights have one.

    Attributes:
      bound: each update clips latent weights to [-bound, bound]. None = no clip.
    """

    bound: float | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """(-bound, bound)."""
        return None if self.bound is None else (-self.bound, self.bound)

    def __call__(self, latent: jax.Array, temperature: jax.Array | float | None = None) -> jax.Array:
        """The binary weights, in the shape and type of latent. There is no temperature. See the class."""
        del temperature
        return _estimated(self, latent)

    def forward(self, latent: jax.Array) -> jax.Array:
        """Signs times scale."""
        scale = self.scale(latent)
        return self.signs(latent) if scale is None else self.signs(latent) * scale

    @abc.abstractmethod
    def backward(self, latent: jax.Array, gradient: jax.Array) -> jax.Array:
        """dL/dw from the latent weights w and gradient = dL/d(output), in their shape."""


def _axes(latent):
    return tuple(range(latent.ndim - 1))


def channel_magnitude(latent: jax.Array) -> jax.Array:
    """The mean of abs(latent) of each output channel: [..., O] to [O]."""
    return jnp.abs(latent).mean(_axes(latent))


@dataclasses.dataclass(frozen=True)
class SteWeightSign(EstimatedWeight):
    """The sign of the weights with a clipped straight-through estimator (Hubara et al. 2016, arXiv 1602.02830; larq's SteSign).

    Forward: sign(w).
    Backward: dL/dw = dL/d(output) where abs(w) <= clip_value, else 0.

    Used by BNN: clip_value inf, sign(0) = 0, bound 1. Real-to-Binary: clip_value 1, bound 1. MeliusNet in larq: clip_value 1.3, bound 1.3.
    MeliusNet in bitorch: clip_value inf, no bound.

    Attributes:
      clip_value: half the width of the window in which the gradient passes. inf = everywhere.
      at_zero: sign(0): 0, +1 or -1.
      bound: each update clips latent weights to [-bound, bound]. None = no clip.
    Raises:
      UserError: another at_zero.
    """

    clip_value: float = 1.0
    at_zero: float = 1.0
    bound: float | None = None

    def __post_init__(self):
        check_at_zero(self.at_zero)

    def signs(self, latent: jax.Array) -> jax.Array:
        """sign(latent)."""
        return sign(latent, self.at_zero)

    def backward(self, latent: jax.Array, gradient: jax.Array) -> jax.Array:
        """The gradient inside the window, else 0."""
        return jnp.where(jnp.abs(latent) <= self.clip_value, gradient, 0)


@dataclasses.dataclass(frozen=True)
class MagnitudeAwareSign(EstimatedWeight):
    """The sign of the weights times their mean magnitude (Liu et al. 2018, arXiv 1808.00278; larq's MagnitudeAwareSign).

    Forward: a sign(w), with a = mean abs(w) of each output channel.
    Backward: dL/dw = dL/d(output) where abs(w) <= 1, else 0; times a with scale_gradient. No gradient goes through a.

    Used by Bi-Real Net and ReActNet: sign(0) = 0, without scale_gradient. larq's edition of Bi-Real Net has sign(0) = +1 and
    scale_gradient, and clips latent weights to [-1, 1].

    Attributes:
      at_zero: sign(0): 0, +1 or -1.
      scale_gradient: whether the gradient has the factor a.
      bound: each update clips latent weights to [-bound, bound]. None = no clip.
    Raises:
      UserError: another at_zero.
    """

    at_zero: float = 1.0
    scale_gradient: bool = True
    bound: float | None = None

    def __post_init__(self):
        check_at_zero(self.at_zero)

    def signs(self, latent: jax.Array) -> jax.Array:
        """sign(latent)."""
        return sign(latent, self.at_zero)

    def scale(self, latent: jax.Array) -> jax.Array:
        """a, [O]."""
        return channel_magnitude(latent)

    def backward(self, latent: jax.Array, gradient: jax.Array) -> jax.Array:
        """The gradient inside [-1, 1], else 0."""
        passed = jnp.where(jnp.abs(latent) <= 1, gradient, 0)
        return passed * channel_magnitude(latent) if self.scale_gradient else passed


XNOR_GRADIENTS = ("straight", "full", "centered", "centered_torch7")


@dataclasses.dataclass(frozen=True)
class XnorWeightScale(EstimatedWeight):
    """XNOR-Net's weights: the sign of clipped weights times their mean magnitude (Rastegari et al. 2016, arXiv 1603.05279, section 3).

    Forward: a sign(c), with c = clip(w, -1, 1) and a = mean abs(c) of each output channel. The centered rules first subtract from w its
    mean over the input channels. sign(0) is +1 in the rule "full", else 0.
    Backward, with g = dL/d(output), n weights of an output channel, I input channels, and sums over an output channel::

        straight           g. A port to PyTorch for ResNet-18, to which the network `xnornet18` is held.
        full               1[abs(w) <= 1] (g a + sign(c) sum(g sign(c)) / n): the derivative with a straight-through sign. The first
                           sign(c) is 0 at 0. larq's AlexNet.
        centered           (a g 1[abs(c) <= 1] + sign(c) sum(g sign(c)) / n) (1 - 1/I) n. The port of the authors' code to PyTorch.
        centered_torch7    g (a 1[abs(c) < 1] + 1/n) (1 - 1/I) n. The authors' code, in Torch7.

    Each update clips latent weights to [-1, 1].

    Attributes:
      gradient: one of XNOR_GRADIENTS.
    Raises:
      UserError: another gradient.
    """

    gradient: str = "full"
    bound = 1.0

    def __post_init__(self):
        if self.gradient not in XNOR_GRADIENTS:
            raise UserError(f"gradient is {self.gradient!r}; one of: {', '.join(XNOR_GRADIENTS)}")

    def _clipped(self, latent):
        if self.gradient.startswith("centered"):
            latent = latent - latent.mean(-2, keepdims=True)
        return jnp.clip(latent, -1, 1)

    def signs(self, latent: jax.Array) -> jax.Array:
        """sign(c)."""
        return sign(self._clipped(latent), 1 if self.gradient == "full" else 0)

    def scale(self, latent: jax.Array) -> jax.Array:
        """a, [O]."""
        return channel_magnitude(self._clipped(latent))

    def latent(self, signs: jax.Array, scale: jax.Array) -> jax.Array:
        """See WeightQuantizer. Raises UserError for the centered rules, whose weights depend on the others."""
        if self.gradient.startswith("centered"):
            raise UserError(f"signs and scales do not tell the latent weights of XnorWeightScale(gradient={self.gradient!r})")
        return signs * scale

    def backward(self, latent: jax.Array, gradient: jax.Array) -> jax.Array:
        """See the class."""
        if self.gradient == "straight":
            return gradient
        clipped, scale, n, inputs = self._clipped(latent), self.scale(latent), math.prod(latent.shape[:-1]), latent.shape[-2]
        through_scale = jnp.sign(clipped) * (gradient * self.signs(latent)).sum(_axes(latent)) / n
        if self.gradient == "full":
            return jnp.where(jnp.abs(latent) <= 1, gradient * scale + through_scale, 0)
        if self.gradient == "centered":
            return (scale * gradient + through_scale) * (1 - 1 / inputs) * n
        return gradient * (scale * (jnp.abs(clipped) < 1) + 1 / n) * (1 - 1 / inputs) * n


@dataclasses.dataclass(frozen=True)
class AqtWeightSign(EstimatedWeight):
    """AQT's 1-bit weight quantizer (Zhang et al. 2021, PokeBNN, arXiv 2112.00133).

    Forward: +M / 2 where w >= 0, else -M / 2, with M = max abs(w) of each output channel.
    Backward: dL/dw = dL/d(output) where abs(w) < (1 - 2^-7) (M + 2^-23), else 0. So the largest weight of a channel gets no gradient.
    No gradient goes through M.
    """

    def signs(self, latent: jax.Array) -> jax.Array:
        """sign(latent), with sign(0) = +1."""
        return sign(latent, 1)

    def scale(self, latent: jax.Array) -> jax.Array:
        """M / 2, [O]."""
        return weight_bound(latent) / 2

    def latent(self, signs: jax.Array, scale: jax.Array) -> jax.Array:
        """See WeightQuantizer. One weight of each channel has the magnitude M, all others M / 2, so that training may change them."""
        largest = jnp.zeros(signs.shape, bool).at[(0,) * (signs.ndim - 1)].set(True)
        return signs * scale * jnp.where(largest, 2, 1)

    def backward(self, latent: jax.Array, gradient: jax.Array) -> jax.Array:
        """The gradient inside the window, else 0."""
        return jnp.where(jnp.abs(latent) < (weight_bound(latent) + EPSILON) * AQT_EDGE, gradient, 0)
