"""larq's and bitorch's names for the variables of a MeliusNet, and the arguments of a MeliusNet from names and shapes.

larq has one kernel for each group of the grouped stem; here they are parts of one kernel. It has no other stem and no channel shuffle:
there our names follow its pattern.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from bnext_jax.errors import UserError
from bnext_jax.io.names.entry import Entry, affine, keras_norm, norm
from bnext_jax.models.base import default_stride
from bnext_jax.models.meliusnet import DEFAULT_STEMS, SIZES, Block, MeliusNet, MeliusNetConfig

log = logging.getLogger(__name__)
LARQ, BITORCH = "stem_s0_conv/", "features.DenseBlock_"  # how the names of some tensors of a whole network begin
SHUFFLE = SIZES["meliusnet_a"]["shuffle_groups"]  # the same in all published networks that shuffle
COPY = "current_dense_block."  # bitorch's state dicts hold the last stage a second time, under this name


def block(prefix: str, parts: Block, number: int = 1) -> Iterator[Entry]:
    """Yields the entries of a block. `number` is its place in its stage, from 1."""
    layers = (parts.dense_norm, parts.dense_conv), (parts.improvement_norm, parts.improvement_conv)
    if parts.config.variant == "larq":
        for name, (own_norm, conv) in zip(("dense", "improve"), layers, strict=True):
            yield from keras_norm(f"{prefix}{name}_bn", own_norm)
            yield Entry(f"{prefix}{name}_binconv/kernel", conv.kernel, "same")
    else:
        for name, (own_norm, conv) in zip((f"DenseLayer_{number}.features", f"ImprovementBlock{number}.body"), layers, strict=True):
            yield from norm(f"{prefix}{name}.0", own_norm)
            yield Entry(f"{prefix}{name}.1.weight", conv.kernel, "conv")


def network(prefix: str, model: MeliusNet) -> Iterator[Entry]:
    """Yields the entries of a MeliusNet."""
    yield from (_larq if model.config.variant == "larq" else _bitorch)(model)


def _larq(model):
    for i, conv in enumerate(model.stem.convs):
        if conv.groups == 1:
            yield Entry(f"stem_s{i}_conv/kernel", conv.kernel, "same")
        for group in range(conv.groups) if conv.groups > 1 else ():
            yield Entry(f"stem_s{i}_groupconv_conv{group}/kernel", conv.kernel, "same", part=(group, conv.groups))
        if model.stem.norms:
            yield from keras_norm(f"stem_s{i}_bn", model.stem.norms[i])
    for i, (stage, transition) in enumerate(itertools.zip_longest(model.stages, model.transitions)):
        for j, parts in enumerate(stage):
            yield from block(f"section_{i}_block_{j}_", parts)
        if transition is not None:
            yield from keras_norm(f"section_{i}_transition_bn", transition.norm)
            yield Entry(f"section_{i}_transition_pw/kernel", transition.conv.kernel, "same")
    yield from keras_norm("head_bn", model.norm)
    yield Entry("head_dense/kernel", model.classifier.kernel, "same")
    yield Entry("head_dense/bias", model.classifier.bias, "same")


def _bitorch(model):
    for i, conv in enumerate(model.stem.convs):  # a convolution, a norm and a ReLU have three numbers
        yield from affine(f"features.{3 * i}", conv, "conv")
        if model.stem.norms:
            yield from norm(f"features.{3 * i + 1}", model.stem.norms[i])
    for i, (stage, transition) in enumerate(itertools.zip_longest(model.stages, model.transitions), start=1):
        for j, parts in enumerate(stage, start=1):
            yield from block(f"features.DenseBlock_{i}.", parts, j)
        if transition is not None:
            yield from norm(f"features.Transition_{i}.0", transition.norm)
            yield from affine(f"features.Transition_{i}.{4 if transition.shuffle_groups > 1 else 3}", transition.conv, "conv")
    yield from norm("finalize.0", model.norm)
    yield from affine("output", model.classifier, "linear")


def without_copy(tensors: Mapping[str, np.ndarray], source: object) -> dict[str, np.ndarray]:
    """Leaves out the second copy of the last stage in a state dict of bitorch, and logs it. Any other state dict has none.

    Args:
      tensors: {name: array}.
      source: the file, for the log.
    Returns:
      The other tensors.
    Raises:
      UserError: the copy has other values.
    """
    stages = _run(lambda i: any(name.startswith(f"{BITORCH}{i + 1}.") for name in tensors))
    copies = {name: array for name, array in tensors.items() if stages and name.startswith(COPY)}
    last = f"{BITORCH}{stages}."
    for name, array in copies.items():
        own = tensors.get(last + name.removeprefix(COPY))
        if own is None or not np.array_equal(own, array, equal_nan=True):
            raise UserError(f"{name} is not a copy of {last}{name.removeprefix(COPY)}; the file is damaged, or holds another network")
    if copies:
        log.info("%s holds its last stage twice; left out the second copy, %d tensors under %s", source, len(copies), COPY)
    return {name: array for name, array in tensors.items() if name not in copies}


def _run(exists: Callable[[int], Any]) -> int:
    """How many of the numbers 0, 1, 2, ... exist, up to the first one that does not."""
    return next(n for n in itertools.count() if not exists(n))


def recognise(tensors: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
    """Finds the arguments of a MeliusNet from the names and shapes of its tensors.

    They do not tell the groups of a channel shuffle, and larq's do not tell whether there is one. All published networks with groups in
    their transitions shuffle 16 groups.

    Returns:
      (number of classes, arguments of a MeliusNetConfig; those that have the default value are left out).
    Raises:
      KeyError, IndexError: a tensor that is needed is missing, or has too few axes.
    """
    larq = any(name.startswith(LARQ) for name in tensors)

    def dense(i, j):
        return f"section_{i}_block_{j}_dense_binconv/kernel" if larq else f"{BITORCH}{i + 1}.DenseLayer_{j + 1}.features.1.weight"

    def transition(i):
        names = (f"section_{i}_transition_pw/kernel",) if larq else (f"features.Transition_{i + 1}.{n}.weight" for n in (4, 3))
        return next((name for name in names if name in tensors), f"the convolution of transition {i + 1}")

    def kernel(name):
        shape = tensors[name].shape
        return (shape[0], shape[2], shape[3]) if larq else (shape[3], shape[1], shape[0])

    def depth(i):
        return _run(lambda j: dense(i, j) in tensors)

    _, stem_width, growth = kernel(dense(0, 0))
    blocks = tuple(map(depth, range(_run(depth))))
    ends = [kernel(transition(i)) for i in range(len(blocks) - 1)]
    conv_groups = (stem_width + blocks[0] * growth) // max(ends[0][1], 1) if ends else 1
    shuffles = conv_groups > 1 if larq else "features.Transition_1.4.weight" in tensors
    classes = tensors["head_dense/kernel"].shape[1] if larq else tensors["output.weight"].shape[0]
    stem = "grouped" if {"stem_s2_groupconv_conv0/kernel", "features.6.weight"} & tensors.keys() else "cifar"
    stem = "imagenet" if kernel("stem_s0_conv/kernel" if larq else "features.0.weight")[0] == 7 else stem
    found = {
        "blocks": blocks,
        "transitions": tuple(outputs for _, _, outputs in ends),
        "growth": growth,
        "stem_width": stem_width,
        "shuffle_groups": SHUFFLE if shuffles else 1,
        "conv_groups": conv_groups,
        "stem": None if stem == DEFAULT_STEMS[default_stride(classes)] else stem,
        "variant": "larq" if larq else "bitorch",
    }
    defaults = {field.name: field.default for field in dataclasses.fields(MeliusNetConfig)}
    return classes, {name: value for name, value in found.items() if value != defaults[name]}
