"""What follows a unit's convolution, with a backward pass that reads the maps once less than automatic differentiation's.

With the convolution's output c, batch_norm_1 as an affine map a c + b, u = a c + b, y = prelu(u) and z = y (feed-forward)
or y r (ELM attention), a unit needs sums over each image's positions, and then z A + B + r, where A and B follow from
those sums. The gradients of a, b and the slope are again sums over positions. Automatic differentiation takes them of the
whole gradient of u, which is known only after the gradients of A and B are, so in another pass over the maps. But A, B
and the sums' gradients are constant over an image's positions: they can be taken out of the sums, and then every sum is
one of maps that are known before. Training on a TPU is bound by memory traffic, and a compiler that fuses takes these
sums in the very pass that writes the gradient of the unit's output: benchmarks/tpu_step.py has the figures.

Two units may stand side by side, their outputs concatenated. `output` takes them together, and B is added on its own (`add_offset`)
afterwards: so the sums are of the concatenated map's gradient, in the pass that writes it, and with them that of the next
unit's shift.

Shapes throughout: c, r [N,H,W,C]; a, b, slope, A, B and sums [N,C]: the slope too, so that the gradients from `sums` and from
`output` are added before they are summed over images, and devices exchange one. Arithmetic in at least float32.
"""

import functools

import jax
import jax.numpy as jnp

from bnext_jax.nn.layers import accumulation_dtype, spatial


def _total(x):
    return x.sum((1, 2))


def _maps(c, a, b, slope, r):
    """(c, y, its derivative by u, min(u, 0), r or None) in the type of sums."""
    kind = accumulation_dtype(c.dtype)
    c, slope = c.astype(kind), spatial(slope, kind)
    u = c * spatial(a, kind) + spatial(b, kind)
    above = u > 0
    return c, jnp.where(above, u, u * slope), jnp.where(above, 1, slope), jnp.where(above, 0, u), None if r is None else r.astype(kind)


def _like(values, others):
    """values in the types of others."""
    return [value.astype(other.dtype) for value, other in zip(values, others, strict=True)]


def _vectors(terms, maps):
    """Gradients [N,C] of (a, b, slope) where dL/dy is the sum over terms of factor [N,C] * weight [N,H,W,C]; maps: of _maps."""
    c, _, derivative, below, _ = maps
    grads = [0, 0, 0]
    for factor, weight in terms:
        of_u = weight * derivative
        parts = _total(of_u * c), _total(of_u), _total(weight * below)
        grads = [grad + factor * part for grad, part in zip(grads, parts, strict=True)]
    return grads


def _of_c(terms, a, maps):
    """The gradient [N,H,W,C] of c, see _vectors."""
    kind = maps[0].dtype
    return sum(spatial(factor, kind) * weight for factor, weight in terms) * maps[2] * spatial(a, kind)


@jax.custom_vjp
def sums(c, a, b, slope, r=None):
    """(sum of y, sum of z, sum of z*z) over the positions of each image, see the module's text; r=None: z = y."""
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
def output(attends, units, r):
    """z * factor + r of units side by side, concatenated on channels: [N,H,W,units*C], in the type of r.

    attends: z = y r, otherwise z = y. units: (c, a, b, slope, factor) of each, factor: A of the module's text.
    """

    def one(c, a, b, slope, factor):
        _, y, _, _, upcast_r = _maps(c, a, b, slope, r)
        z = y * upcast_r if attends else y
        return (z * spatial(factor, y.dtype) + upcast_r).astype(r.dtype)

    return jnp.concatenate([one(*unit) for unit in units], axis=-1)


def _output_backward(attends, saved, cotangent):
    units, r = saved
    *together, factors = (jnp.concatenate(one, axis=-1) for one in zip(*units, strict=True))
    maps = _maps(*together, jnp.concatenate([r] * len(units), axis=-1))
    _, y, _, _, upcast_r = maps
    weight = cotangent.astype(y.dtype) * (upcast_r if attends else 1)
    vectors = (jnp.split(one, len(units), axis=-1) for one in (*_vectors([(factors, weight)], maps), _total(weight * y)))

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


def add_offset(x, offset):
    """x + offset, in the type of x, added in at least float32: x [N,H,W,C], offset [N,C]."""
    return (x.astype(accumulation_dtype(x.dtype)) + spatial(offset, accumulation_dtype(x.dtype))).astype(x.dtype)
