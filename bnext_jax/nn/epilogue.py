"""The part of a BNext unit after its convolution. Its backward pass reads the maps once less than automatic differentiation.

Forward. Let c be the output of the convolution and r the residual. batch_norm_1 is the affine map u = a c + b. Then y = prelu(u), and
z = y (feed-forward) or z = y r (ELM attention). The unit first needs sums of y, z and z^2 over the positions of each image (`sums`).
A and B follow from these sums. The output is z A + B + r (`output` and `add_offset`).

Backward. The gradients of a, b and the slope are sums over positions too. Automatic differentiation sums the complete gradient of u.
That gradient is known only after the gradients of A and B, so these sums need another pass over the maps. But A, B and the gradients
of the sums are constant over the positions of an image. This module moves them out of the sums. The remaining sums need only maps
that are known earlier. Memory traffic limits training on a TPU. A compiler that fuses operations computes these sums in the pass that
writes the gradient of the unit's output. benchmarks/tpu_step.py measures the effect.

Two units may stand side by side, with their outputs concatenated. `output` takes both units together, and `add_offset` adds B in a
separate operation. So the sums are sums over the gradient of the concatenated map. The compiler computes them in the pass that writes
this gradient, together with the sum for the gradient of the next unit's shift.

Shapes: c and r are [N,H,W,C]. a, b, slope, A, B and the sums are [N,C]. The slope is [N,C] for a reason: its gradients from `sums` and
from `output` are added before the sum over images, so devices exchange one array instead of two.
The arithmetic runs in at least float32.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bnext_jax.nn.layers import accumulation_dtype, spatial


def _total(x):
    return x.sum((1, 2))


def _maps(c, a, b, slope, r):
    """(c, y, dy/du, min(u, 0), r or None), in the type in which sums are computed."""
    kind = accumulation_dtype(c.dtype)
    c, slope = c.astype(kind), spatial(slope, kind)
    u = c * spatial(a, kind) + spatial(b, kind)
    above = u > 0
    return c, jnp.where(above, u, u * slope), jnp.where(above, 1, slope), jnp.where(above, 0, u), None if r is None else r.astype(kind)


def _like(values, others):
    """Casts each value to the type of the other array at the same place."""
    return [value.astype(other.dtype) for value, other in zip(values, others, strict=True)]


def _vectors(terms, maps):
    """Gradients [N,C] of (a, b, slope).

    Args:
      terms: pairs (factor [N,C], weight [N,H,W,C]). dL/dy is the sum of factor * weight over the pairs.
      maps: the result of _maps.
    """
    c, _, derivative, below, _ = maps
    grads: list[Any] = [0, 0, 0]
    for factor, weight in terms:
        of_u = weight * derivative
        parts = _total(of_u * c), _total(of_u), _total(weight * below)
        grads = [grad + factor * part for grad, part in zip(grads, parts, strict=True)]
    return grads


def _of_c(terms, a, maps):
    """The gradient [N,H,W,C] of c. See _vectors for `terms` and `maps`."""
    kind = maps[0].dtype
    return sum(spatial(factor, kind) * weight for factor, weight in terms) * maps[2] * spatial(a, kind)


@jax.custom_vjp
def sums(c: jax.Array, a: jax.Array, b: jax.Array, slope: jax.Array, r: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums of y, z and z^2 over the positions of each image. See the module's docstring for the formulas.

    Args:
      c: output of the convolution, [N,H,W,C].
      a: factor of batch_norm_1, [N,C].
      b: offset of batch_norm_1, [N,C].
      slope: slope of the PReLU, [N,C].
      r: residual, [N,H,W,C], for z = y r; None for z = y.
    Returns:
      (sum of y, sum of z, sum of z^2), [N,C] each, in at least float32.
    """
    _, y, _, _, r = _maps(c, a, b, slope, r)
    z = y if r is None else y * r
    return _total(y), _total(z), _total(jnp.square(z))


def _sums_backward(saved, cotangents):
    c, *vectors, r = saved
    of_y, of_z, of_squares = cotangents
    maps = _maps(*saved)
    _, y, *_, upcast_r = maps
    if r is None:
        terms, grad_r = [(of_y + of_z, jnp.ones_like(y)), (2 * of_squares, y)], None
    else:
        z = y * upcast_r
        terms = [(of_y, jnp.ones_like(y)), (of_z, upcast_r), (2 * of_squares, z * upcast_r)]
        grad_r = ((spatial(of_z, y.dtype) + spatial(2 * of_squares, y.dtype) * z) * y).astype(r.dtype)
    return _of_c(terms, vectors[0], maps).astype(c.dtype), *_like(_vectors(terms, maps), vectors), grad_r


sums.defvjp(lambda *arguments: (sums(*arguments), arguments), _sums_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def output(attends: bool, units: Sequence[tuple[jax.Array, ...]], r: jax.Array) -> jax.Array:
    """z A + r of each unit, concatenated on channels. See the module's docstring for the formulas.

    Args:
      attends: True for z = y r, False for z = y.
      units: (c, a, b, slope, A) of each unit, in the shapes of the module's docstring.
      r: residual of all units, [N,H,W,C].
    Returns:
      [N,H,W,len(units)*C], in the type of r.
    """

    def one(c, a, b, slope, factor):
        _, y, _, _, upcast_r = _maps(c, a, b, slope, r)
        z = y * upcast_r if attends else y
        return (z * spatial(factor, y.dtype) + upcast_r).astype(r.dtype)

    return jnp.concatenate([one(*unit) for unit in units], axis=-1)


def _output_backward(attends, saved, cotangent):
    units, r = saved
    c, a, b, slope, factors = (jnp.concatenate(one, axis=-1) for one in zip(*units, strict=True))
    maps = _maps(c, a, b, slope, jnp.concatenate([r] * len(units), axis=-1))
    _, y, _, _, upcast_r = maps
    weight = cotangent.astype(y.dtype) * (upcast_r if attends else 1)
    vectors = (jnp.split(one, len(units), axis=-1) for one in (*_vectors([(factors, weight)], maps), _total(weight * y)))

    grads: list[tuple[jax.Array, ...]]
    grad_r: Any
    grads, grad_r = [], 0
    parts = jnp.split(cotangent, len(units), axis=-1)
    for (c, a, b, slope, factor), g, *of_them in zip(units, parts, *vectors, strict=True):
        maps = _maps(c, a, b, slope, r)
        _, y, _, _, upcast_r = maps
        g = g.astype(y.dtype)
        grad_r = grad_r + g * (spatial(factor, y.dtype) * y + 1 if attends else 1)
        of_c = _of_c([(factor, g * upcast_r if attends else g)], a, maps).astype(c.dtype)
        grads.append((of_c, *_like(of_them, (a, b, slope, factor))))
    return tuple(grads), grad_r.astype(r.dtype)


def _output_forward(attends, *arguments):
    return output(attends, *arguments), arguments


output.defvjp(_output_forward, _output_backward)


def add_offset(x: jax.Array, offset: jax.Array) -> jax.Array:
    """Adds an offset [N,C] to a map x [N,H,W,C]. The addition runs in at least float32; the result has the type of x."""
    return (x.astype(accumulation_dtype(x.dtype)) + spatial(offset, accumulation_dtype(x.dtype))).astype(x.dtype)
