"""Counts the multiply-accumulates of a network in its traced program (jaxpr). Works for any network; it needs only the parameters.

Only convolutions and matrix products count (docs/spec.md, section 2). The data flow tells to which layer a product belongs: its second
operand must be computed from exactly one kernel, and that kernel names the layer.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from bnext_jax.errors import UserError
from bnext_jax.nn.network import split

BINARY, FLOAT = "binary", "float"
KINDS = {1: BINARY, 4: "int4", 8: "int8", 32: FLOAT}  # bits of a weight -> kind of layer
# kind of layer -> OPs per multiply-accumulate (docs/spec.md, section 2)
COST = {BINARY: 1 / 64, "int4": 1 / 16, "int8": 1 / 8, FLOAT: 1.0}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or dense layer.

    Attributes:
      name: the layer's path, for example "blocks/0/unit3x3/conv".
      kind: kind of the weights, a key of COST.
      edition: kind of the weights in the network's quantized edition, a key of COST (docs/spec.md, section 5).
      kernel: shape of the kernel.
      output: shape of the output for one image: [H', W', O], or [O] for a dense layer.
      macs: multiply-accumulates for one image.
    """

    name: str
    kind: str
    edition: str
    kernel: tuple
    output: tuple
    macs: int

    @property
    def weights(self) -> int:
        """Number of values in the kernel."""
        return math.prod(self.kernel)


def kinds_of(variable: nnx.Variable, module: nnx.Module) -> tuple[str, str]:
    """Returns the kind of a kernel's weights.

    Args:
      variable: the kernel.
      module: the layer that owns the kernel.
    Returns:
      (kind, kind in the quantized edition), keys of COST.
    Raises:
      UserError: a number of bits that is not in KINDS.
    """
    quantizer = variable.get_metadata().get("quantizer") or getattr(module, "quantizer", None)
    bits = 32 if quantizer is None else quantizer.bits
    if bits not in KINDS:
        raise UserError(f"the network cannot be counted: it has a layer of {bits} bits; only layers of 1, 4, 8 or 32 bits can be counted")
    return KINDS[bits], KINDS[1 if bits == 1 else getattr(module, "edition_bits", 8)]


def kernels(model: nnx.Module) -> list[tuple[str, nnx.Variable, nnx.Module]]:
    """Returns [(the layer's path, its kernel, its module)] in the order of the paths. The network may be abstract."""
    modules = dict(nnx.iter_modules(model))
    found = [(path[:-1], variable) for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)) if path[-1] == "kernel"]
    return [("/".join(map(str, path)), variable, modules[path]) for path, variable in found]


def layers(model: nnx.Module, height: int, width: int) -> list[Layer]:
    """Traces a network and returns its layers in the order of computation. Computes no array.

    Args:
      model: an evaluation view, abstract or not.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    Returns:
      One Layer per product. A layer that runs several times appears several times.
    Raises:
      UserError: the network does not accept this size, a product has not exactly one kernel, or a number of bits is not in KINDS.
    """
    known = {name: (tuple(variable.shape), *kinds_of(variable, module)) for name, variable, module in kernels(model)}
    network, params, batch_stats = split(model, training=False)
    arguments = (params, batch_stats, jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32))
    traced = jax.make_jaxpr(lambda params, rest, images: network({**params, **rest}, images)[0])(*arguments)
    sources = [frozenset({path.removesuffix("/kernel")} & known.keys()) for path in sorted(params)]  # JAX sorts the keys of a dict
    sources += [frozenset()] * (len(traced.jaxpr.invars) - len(sources))
    found: list[tuple[str, tuple, int]] = []
    _follow(traced.jaxpr, sources, found)
    return [Layer(name, *known[name][1:], known[name][0], output[1:], macs) for name, output, macs in found]


def _follow(jaxpr: core.Jaxpr, sources: Sequence[frozenset], found: list[tuple[str, tuple, int]]) -> list[frozenset]:
    """Walks through a program and records its products.

    Args:
      jaxpr: the program.
      sources: for each input, the names of the kernels from which it is computed.
      found: the function appends (layer, shape of the output, multiply-accumulates) of each product.
    Returns:
      For each output, the names of the kernels from which it is computed.
    """
    known = dict(zip(jaxpr.invars, sources, strict=True))

    def of(operand: Any) -> frozenset:
        return frozenset() if isinstance(operand, core.Literal) else known.get(operand, frozenset())

    for equation in jaxpr.eqns:
        inputs, name = [of(operand) for operand in equation.invars], equation.primitive.name
        inner = _inner(equation)
        if inner is not None:
            inside: list[tuple[str, tuple, int]] = []
            outputs = _follow(inner, inputs[len(inputs) - len(inner.invars) :], inside)
            found += inside * (equation.params["length"] if name == "scan" else 1)
        elif name == "while":
            raise UserError("the network cannot be counted: it has a while loop, whose number of rounds is known only when it runs")
        elif name in ("conv_general_dilated", "dot_general"):
            output = equation.outvars[0].aval.shape  # type: ignore[attr-defined]
            found.append((_kernel(name, inputs[1], output), output, math.prod(output) * _depth(equation)))
            outputs = [frozenset()]  # a feature map is not a kernel any more
        else:
            outputs = [frozenset().union(*inputs)] * len(equation.outvars)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [of(operand) for operand in jaxpr.outvars]


def _inner(equation: Any) -> Any:
    """Returns the program that an equation calls, or None.

    Where bnext_jax.nn.lowering has one program per platform (a cond), returns the last one, which is that of accelerators.
    """
    if equation.primitive.name == "cond":
        return equation.params["branches"][-1].jaxpr
    called = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return getattr(called, "jaxpr", called)


def _kernel(name: str, paths: frozenset, output: Sequence[int]) -> str:
    """Returns the layer whose kernel a product multiplies. Raises UserError unless there is exactly one.

    Args:
      name: the operation, for the message.
      paths: the layers whose kernels the product's second operand is computed from.
      output: shape of the output, for the message.
    """
    if len(paths) != 1:
        raise UserError(
            f"the network cannot be counted: its {name} with the output {list(output)} multiplies {len(paths)} kernels, not one;"
            " only products with exactly one kernel can be counted"
        )
    return next(iter(paths))


def _depth(equation: Any) -> int:
    """Returns the multiply-accumulates per output value of a convolution or matrix product."""
    left, right = (operand.aval.shape for operand in equation.invars[:2])
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(left[axis] for axis in contracted)
    _, *others = equation.params["dimension_numbers"].rhs_spec  # axes of the output features; then of the input features, height and width
    return math.prod(right[axis] for axis in others)
