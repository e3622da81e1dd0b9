"""AQT's names for the variables of PokeBNN: paths in its Flax collections "params", "batch_stats" and "get_bounds".

AQT's trees do not tell the phase of a training. A network that is read quantizes its weights, and sets no bounds that are not set until it
is trained. The statistics from which AQT finds bounds (`stats` beside `bounds`) are not exchanged: a network that is read starts them anew.
"""

import itertools
import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.io.names.entry import ABSENT, Entry
from bnext_jax.models.pokebnn import DEPTHS, STEM_SIZES, WIDTHS, PokeBnnConfig

if TYPE_CHECKING:
    from bnext_jax.models.pokebnn import Bottleneck, PokeBNN
    from bnext_jax.nn.batch_norm import BatchNorm
    from bnext_jax.nn.poke_layers import CalibratedConv, CalibratedLinear, DPReLU

log = logging.getLogger(__name__)


def _norm(name: str, layer: "BatchNorm") -> Iterator[Entry]:
    for collection, leaf in (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var")):
        yield Entry(f"{collection}/{name}/{leaf}", getattr(layer, leaf), "same")
    yield Entry(f"batch_stats/{name}/batches", layer.batches, ABSENT)


def _bounds(name, variable, layout="bounds", value=None):
    return Entry(f"get_bounds/{name}/GetBounds_0/bounds", variable, layout, value=value)


def _layer(name: str, layer: "CalibratedConv | CalibratedLinear", kernel: str = "same", bounds: str = "bounds") -> Iterator[Entry]:
    yield Entry(f"params/{name}/kernel", layer.kernel, kernel)
    if layer.bias is not None:
        yield Entry(f"params/{name}/bias", layer.bias, "same")
    yield _bounds(name, layer.quantizer.bounds, bounds)
    for leaf in ("maximum", "minimum"):
        yield Entry(f"get_bounds/{name}/{leaf}", getattr(layer.quantizer, leaf), ABSENT)


def _activation(number: int, layer: "DPReLU") -> Iterator[Entry]:
    for leaf in ("bias_x", "bias_y", "neg_slope", "pos_slope"):
        yield Entry(f"params/DPReLU_{number}/{leaf}", getattr(layer, leaf), "same")


def bottleneck(prefix: str, block: "Bottleneck", number: int = 0, activation: int = 0) -> Iterator[Entry]:
    """Yields the entries of a bottleneck.

    Args:
      prefix: not used; AQT's names have no prefix.
      block: the bottleneck.
      number: of the bottleneck in its network.
      activation: number of its first DPReLU.
    """
    for i, part in enumerate((block.reduce, block.middle, block.expand), start=1):
        own = f"resblock{number}-{i}"
        yield Entry(f"params/conv-{own}/kernel", part.conv.kernel, "same")
        # AQT keeps the bound of a binary input like other bounds. It has one value, which is the quantizer's own.
        bound = part.conv.input_quantizer.bound  # type: ignore[union-attr]  # an AqtSign
        yield _bounds(f"conv-{own}", nnx.Variable(jnp.full(part.conv.kernel.shape[2:3], bound)), value=bound)
        yield from _norm(f"bn{own}", part.norm1)
        yield from _activation(activation + i - 1, part.activation)
        yield from _layer(f"sefc1-{own}", part.excitation.reduce, "pointwise")
        yield from _layer(f"sefc2-{own}", part.excitation.expand, "pointwise")
        yield from _norm(f"bn_split{own}", part.norm2)


def pokebnn(prefix: str, model: "PokeBNN") -> Iterator[Entry]:
    """Yields the entries of a PokeBNN. The prefix is not used."""
    yield from _layer("init_conv", model.stem)
    yield from _norm("init_bn", model.stem_norm)
    yield from _activation(0, model.stem_activation)
    yield from _layer("init_conv_group", model.grouped)
    yield from _norm("init_bn_group", model.grouped_norm)
    yield from _activation(1, model.grouped_activation)
    for i, block in enumerate(model.blocks):
        yield from bottleneck(prefix, block, i, 2 + 3 * i)
    yield from _layer("DenseAqt_0", model.classifier, bounds="row")
    for switch in ("bounded", "quantized"):
        yield Entry(switch, getattr(model, switch), ABSENT, value=1)


def without_statistics(tensors: Mapping[str, np.ndarray], path: object) -> dict[str, np.ndarray]:
    """The tensors of the file `path` without AQT's statistics of inputs. Warns if it has some."""
    kept = {name: array for name, array in tensors.items() if not re.search(r"(^|/)GetBounds_\d+/stats/", name)}
    if len(kept) < len(tensors):
        log.warning("%s has statistics of inputs (.../stats); they are not read, and bounds that are not set are found anew", path)
    return kept


def recognise(tensors: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
    """Finds the size of a PokeBNN from AQT's names and shapes.

    Args:
      tensors: {name: array}.
    Returns:
      (num_classes, arguments for create_model). A stage begins where the width changes.
    Raises:
      KeyError: a tensor that tells a size is missing.
    """
    blocks = itertools.takewhile(lambda i: f"params/conv-resblock{i}-2/kernel" in tensors, itertools.count())
    found = [int(tensors[f"params/conv-resblock{i}-2/kernel"].shape[-1]) for i in blocks]
    if not found:
        raise KeyError("params/conv-resblock0-2/kernel")
    widths, depths = zip(*((width, len(list(run))) for width, run in itertools.groupby(found)), strict=True)
    classes = int(tensors["params/DenseAqt_0/kernel"].shape[-1])
    strides = {size: stride for stride, size in STEM_SIZES.items()}
    told = {"multiplier": widths[0] / WIDTHS[0], "depths": depths, "stem_stride": strides[tensors["params/init_conv/kernel"].shape[0]]}
    if tuple(int(told["multiplier"] * width) for width in WIDTHS[: len(depths)]) != widths:
        told |= {"multiplier": 1.0, "widths": widths}
    usual = PokeBnnConfig(depths=DEPTHS).resolved(classes)
    return classes, {key: value for key, value in told.items() if value != getattr(usual, key)}
