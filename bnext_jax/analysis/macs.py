"""Multiply-accumulates of a network, read off its traced program: nothing is known of the network but its parameters.

Only convolutions and matrix products count (SPEC section 2). Whose they are follows from the data flow: the kernel of each is the one
parameter array that its second operand was computed from.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from bnext_jax.errors import UserError
from bnext_jax.nn.network import split

BINARY, FLOAT = "binary", "float"
KINDS = {1: BINARY, 4: "int4", 8: "int8", 32: FLOAT}  # by the bits of a weight
# OPs that one multiply-accumulate of a kind costs (SPEC section 2)
COST = {BINARY: 1 / 64, "int4": 1 / 16, "int8": 1 / 8, FLOAT: 1.0}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or dense layer.

    Attributes:
      name: its path, "blocks/0/unit3x3/conv".
      kind: of its weights, a key of COST.
      edition: the kind in the network's quantized edition (SPEC section 5).
      kernel: its shape.
      output: [H', W', O], or [O] of a dense layer.
      macs: of one image.
    """

    name: str
    kind: str
    edition: str
    kernel: tuple
    output: tuple
    macs: int

    @property
    def weights(self):
        """Values in the kernel."""
        return math.prod(self.kernel)


def kinds_of(variable, module):
    """(kind, kind in the quantized edition) of a kernel, keys of COST. Raises UserError for bits that have no price."""
    quantizer = variable.get_metadata().get("quantizer") or getattr(module, "quantizer", None)
    bits = 32 if quantizer is None else quantizer.bits
    if bits not in KINDS:
        raise UserError(f"the network cannot be counted: a layer of {bits} bits has no price; 1, 4 and 8 have one")
    return KINDS[bits], KINDS[1 if bits == 1 else getattr(module, "edition_bits", 8)]


def kernels(model):
    """[(layer's path, its kernel's variable, its module)] of a network, abstract or not, in the order of the paths."""
    modules = dict(nnx.iter_modules(model))
    found = [(path[:-1], variable) for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)) if path[-1] == "kernel"]
    return [("/".join(map(str, path)), variable, modules[path]) for path, variable in found]


def layers(model, height, width):
    """The Layers of a network, in the order of their computation, for one image of height x width pixels.

    Args:
      model: an evaluation view, abstract or not; nothing is computed.
    Raises:
      UserError: a size that the network cannot take, a product of which no parameter is a factor, bits that have no price.
    """
    known = {name: (tuple(variable.shape), *kinds_of(variable, module)) for name, variable, module in kernels(model)}
    network, params, batch_stats = split(model, training=False)
    arguments = (params, batch_stats, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
    traced = jax.make_jaxpr(lambda params, rest, images: network({**params, **rest}, images)[0])(*arguments)
    sources = [frozenset({path.removesuffix("/kernel")} & known.keys()) for path in sorted(params)]  # as jax orders a dict's leaves
    sources += [frozenset()] * (len(traced.jaxpr.invars) - len(sources))
    found = []
    _follow(traced.jaxpr, sources, found)
    return [Layer(name, *known[name][1:], known[name][0], output[1:], macs) for name, output, macs in found]


def _follow(jaxpr, sources, found):
    """Walks a program; appends (layer, shape of the output, multiply-accumulates) of each product to `found`.

    sources: of each input, the kernels that it was computed from. Returns the same of each output.
    """
    known = dict(zip(jaxpr.invars, sources, strict=True))

    def of(operand):
        return frozenset() if isinstance(operand, core.Literal) else known.get(operand, frozenset())

    for equation in jaxpr.eqns:
        inputs, name = [of(operand) for operand in equation.invars], equation.primitive.name
        inner = _inner(equation)
        if inner is not None:
            inside = []
            outputs = _follow(inner, inputs[len(inputs) - len(inner.invars) :], inside)
            found += inside * (equation.params["length"] if name == "scan" else 1)
        elif name == "while":
            raise UserError("the network cannot be counted: it has a loop whose length only its computation tells")
        elif name in ("conv_general_dilated", "dot_general"):
            output = equation.outvars[0].aval.shape
            found.append((_kernel(name, inputs[1], output), output, math.prod(output) * _depth(equation)))
            outputs = [frozenset()]  # a map, no longer a kernel
        else:
            outputs = [frozenset().union(*inputs)] * len(equation.outvars)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [of(operand) for operand in jaxpr.outvars]


def _inner(equation):
    """The program that an equation calls, or None; of those by platform (bnext_jax.nn.lowering) the accelerators', which stands last."""
    if equation.primitive.name == "cond":
        return equation.params["branches"][-1].jaxpr
    called = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return getattr(called, "jaxpr", called)


def _kernel(name, paths, output):
    """The one layer whose kernel a product multiplies."""
    if len(paths) != 1:
        raise UserError(
            f"the network cannot be counted: its {name} with the output {list(output)} multiplies {len(paths)} kernels, not one;"
            " only products with one parameter array are known"
        )
    return next(iter(paths))


def _depth(equation):
    """Multiply-accumulates per value of the output of a convolution or matrix product."""
    left, right = (operand.aval.shape for operand in equation.invars[:2])
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(left[axis] for axis in contracted)
    _, *others = equation.params["dimension_numbers"].rhs_spec  # features out; features in, height, width
    return math.prod(right[axis] for axis in others)
