"""Finds the network of a state dict from the names and shapes of its tensors: PyTorch's, Keras's or Flax's names."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnext_jax.errors import UserError
from bnext_jax.io.names import frame18, meliusnet, pokebnn, reactnet_a, real_to_binary
from bnext_jax.io.names.entry import classes, count
from bnext_jax.models.base import default_stride
from bnext_jax.models.bnext18 import WIDTHS as WIDTHS_18
from bnext_jax.models.convnext import PATCH
from bnext_jax.models.efficientnet import SCALES, STAGES
from bnext_jax.models.table import MODELS

# The quantized edition's bits. A file does not tell whether its gates have 4 or 8 bits; the published sizes are those of 4 bits.
BITS, GATE_BITS = 8, 4
# The parts of a block: name in efficientnet_lite_pytorch -> name in timm. SEPARABLE: a block without expansion; INVERTED: with one
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
LITE_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE_BLOCKS = [(i, j) for i, stage in enumerate(STAGES) for j in range(stage[4])]  # (stage, block in the stage) of Lite0's blocks, in order


def timm_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the tensors of an efficientnet_lite_pytorch state dict to timm's names. Returns any other state dict unchanged."""
    if "_conv_stem.weight" not in tensors:
        return tensors
    return {_lite_name(name): array for name, array in tensors.items()}


def _lite_name(name):
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
    if block is None:
        first, dot, rest = name.partition(".")
        return LITE_ENDS.get(first, first) + dot + rest
    number, part, leaf = block.groups()
    if int(number) >= len(LITE_BLOCKS):
        return name
    i, j = LITE_BLOCKS[int(number)]
    parts = INVERTED if STAGES[i][0] > 1 else SEPARABLE
    return f"blocks.{i}.{j}.{parts.get(part, part)}.{leaf}"


def _width(tensors, prefix):
    """The number of channels of the unit with this prefix, from the first per-channel tensor that exists."""
    for leaf in ("move.bias", "scale", "norm1.weight", "activation1.weight", "norm2.weight"):
        if f"{prefix}{leaf}" in tensors:
            shape = tensors[f"{prefix}{leaf}"].shape
            return shape[1] if len(shape) == 4 else shape[0]
    raise KeyError(f"{prefix}move.bias")


def _bnext(tensors):
    unit = "Attention" if any(".Attention." in name for name in tensors) else "FFN_3x3"
    widths = [_width(tensors, f"feature.{i}.{unit}.") for i in range(1, count(tensors, r"feature\.(\d+)\."))]
    doubles = any(name.startswith((f"feature.{len(widths)}.FFN_1.", f"feature.{len(widths)}.FFN_2.")) for name in tensors)
    arguments: dict[str, Any] = {"widths": (*widths, widths[-1] * (2 if doubles else 1))}
    if unit != "Attention":
        arguments["elm_attention"] = False
    if not any(name.endswith(".scale") for name in tensors if name.startswith("feature.")):
        arguments["info_recoupling"] = False
    quantized = {"stem_bits": "feature.0.conv1.", "classifier_bits": "fc.", "gate_bits": "feature.1."}
    for argument, prefix in quantized.items():
        if any(name.startswith(prefix) and name.endswith("clip_val") for name in tensors):
            arguments[argument] = GATE_BITS if argument == "gate_bits" else BITS
    return "bnext", classes(tensors, "fc"), arguments


def _bnext18(tensors):
    outputs = classes(tensors, "fc")
    widths = tuple(_width(tensors, f"layer{i}.0.FFN.") for i in range(len(WIDTHS_18)))
    stride = 2 if tensors["conv1.weight"].shape[-1] == 7 else 1
    arguments = {} if widths == WIDTHS_18 else {"widths": widths}
    return "bnext18", outputs, arguments if stride == default_stride(outputs) else {**arguments, "stem_stride": stride}


def _efficientnet(tensors):
    ends = tensors["conv_stem.weight"].shape[0], tensors["conv_head.weight"].shape[0]
    style = "pytorch" if any(".se." in name for name in tensors) else "tf_lite"
    for name, scale in SCALES.items():
        if (scale["stem_width"], scale["head_width"]) == ends and scale.get("style", "pytorch") == style:
            return name, classes(tensors, "classifier"), {}
    raise UserError(
        f"the file holds an EfficientNet with {ends[0]} channels in its stem and {ends[1]} in its head; known are {', '.join(SCALES)}"
    )


def _convnext(tensors):
    stages = range(count(tensors, r"stages\.(\d+)\."))
    widths = tuple(tensors[f"stages.{i}.blocks.0.conv_dw.weight"].shape[0] for i in stages)
    depths = tuple(count(tensors, rf"stages\.{i}\.blocks\.(\d+)\.") for i in stages)
    patch = tensors["stem.0.weight"].shape[-1]
    return "convnext", classes(tensors, "head.fc"), {"widths": widths, "depths": depths} | ({} if patch == PATCH else {"patch": patch})


def _like_resnet(tensors, expected):
    outputs, arguments = frame18.recognise_resnet(tensors)
    binary = not arguments["bottleneck"] and len(set(arguments["depths"])) == 1  # may be binary: all stages are alike
    if not binary or str(expected).startswith("resnet"):
        return "resnet", outputs, arguments
    if expected == "bnn18":
        return expected, *frame18.recognise(tensors, 2)
    if expected == "xnornet18":
        return expected, *frame18.recognise_xnornet(tensors)
    raise UserError(
        "the file has the names of a ResNet-18, which BNN-18, XNOR-Net-18 and a real-valued ResNet-18 share;"
        " say which it is with --model=bnn18, --model=xnornet18 or --model=resnet18 (of convert)"
    )


def _named(name, find):
    """A family of one name, from a function of the tensors that gives (num_classes, arguments)."""
    return lambda tensors, _: (name, *find(tensors))


# (how a name of the network begins, what the network is called in messages, function of (tensors, expected name) that gives its name,
# number of classes and arguments). The first that fits a file's names decides.
FAMILIES: tuple[tuple[str, str, Callable[[Any, str | None], tuple[str, int, dict]]], ...] = (
    (r"feature\.\d+\.(move11|binary_3x3)\.", "ReActNet-A", _named("reactnet_a", reactnet_a.recognise)),
    (r"feature\.\d", "BNext", lambda tensors, _: _bnext(tensors)),
    (r"layer0\.\d", "BNext-18", lambda tensors, _: _bnext18(tensors)),
    (r"layer\d+\.\d+\.binary_conv\.weights", "Bi-Real Net", _named("birealnet18", lambda tensors: frame18.recognise(tensors, 4))),
    (r"layer\d+\.\d+\.(binary_conv|move0)\.", "ReActNet-18", _named("reactnet18", lambda tensors: frame18.recognise(tensors, 4))),
    (r"layer1\.\d", "ResNet", _like_resnet),
    (r"r2b_bnn_block_1_", "Real-to-Binary", lambda tensors, _: real_to_binary.recognise(tensors)),
    (rf"{re.escape(meliusnet.BITORCH)}\d|{meliusnet.LARQ}", "MeliusNet", _named("meliusnet", meliusnet.recognise)),
    (r"params/init_conv/", "PokeBNN", _named("pokebnn", pokebnn.recognise)),
    (r"conv_stem\.", "EfficientNet", lambda tensors, _: _efficientnet(tensors)),
    (r"stages\.\d", "ConvNeXt", lambda tensors, _: _convnext(tensors)),
)
# How the names of a network's tensors begin, behind any prefix. Lite0's package has an underscore of its own.
BEGINS = re.compile(rf"(?:^|\.)(_?conv_stem\.|{'|'.join(begin for begin, *_ in FAMILIES)})")
# Generic name -> {name: arguments} of the known networks of that kind
NAMED = {
    kind: {name: entry.arguments for name, entry in MODELS.items() if name.startswith(kind) and entry.arguments}
    for kind in ("bnext", "convnext", "meliusnet", "resnet")
}


def recognise(tensors: Mapping[str, np.ndarray], expected: str | None = None) -> tuple[str, int, dict[str, Any]]:
    """Finds the network that a state dict belongs to.

    Args:
      tensors: {name in the reference implementation: array}; timm's names for the teachers.
      expected: the name that the user gives, or None. It decides only where the names of several networks are the same.
    Returns:
      (name, num_classes, arguments) for create_model. The name is a key of MODELS. It is "bnext", "convnext", "meliusnet" or
      "resnet", with widths in the arguments, if no published network has these widths.
    Raises:
      UserError: the names are those of another network or of several, or tensors that tell the widths are missing.
    """
    for begin, title, family in FAMILIES:
        if any(map(re.compile(begin).match, tensors)):
            try:
                name, outputs, arguments = family(tensors, expected)
            except (KeyError, IndexError) as error:
                raise UserError(f"the file looks like {title} but lacks {error}, which is needed to find its widths") from error
            for known, fixed in NAMED.get(name, {}).items():
                if all(arguments.get(key) == value for key, value in fixed.items()):
                    return known, outputs, {key: value for key, value in arguments.items() if key not in fixed}
            return name, outputs, arguments
    some = ", ".join(list(tensors)[:3])
    raise UserError(f"the file holds no network that is known here (it starts with {some}); known: {', '.join(MODELS)}")
