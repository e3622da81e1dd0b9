"""timm's names for the variables of the teachers' networks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnext_jax.io.names.entry import Entry, affine, norm

if TYPE_CHECKING:
    from bnext_jax.models.convnext import ConvNeXt
    from bnext_jax.models.efficientnet import EfficientNet


def _inverted_residual(prefix, block):
    # timm numbers the norms in order. It calls the projection conv_pwl if the block has an expansion, which is conv_pw; else conv_pw.
    expands = block.expand is not None
    if expands:
        yield from affine(f"{prefix}conv_pw", block.expand, "conv")
        yield from norm(f"{prefix}bn1", block.expand_norm)
    yield from affine(f"{prefix}conv_dw", block.depthwise, "conv")
    yield from norm(f"{prefix}bn{2 if expands else 1}", block.depthwise_norm)
    if block.excitation is not None:
        yield from affine(f"{prefix}se.conv_reduce", block.excitation.reduce, "gate")
        yield from affine(f"{prefix}se.conv_expand", block.excitation.expand, "gate")
    yield from affine(f"{prefix}{'conv_pwl' if expands else 'conv_pw'}", block.project, "conv")
    yield from norm(f"{prefix}bn{3 if expands else 2}", block.project_norm)


def efficientnet(prefix: str, model: "EfficientNet") -> Iterator[Entry]:
    """Yields the entries of an EfficientNet."""
    yield from affine(f"{prefix}conv_stem", model.stem, "conv")
    yield from norm(f"{prefix}bn1", model.stem_norm)
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage):
            yield from _inverted_residual(f"{prefix}blocks.{i}.{j}.", block)
    yield from affine(f"{prefix}conv_head", model.head, "conv")
    yield from norm(f"{prefix}bn2", model.head_norm)
    yield from affine(f"{prefix}classifier", model.classifier, "linear")


def _layer_norm(prefix, layer):
    yield Entry(f"{prefix}.weight", layer.scale, "same")
    yield Entry(f"{prefix}.bias", layer.bias, "same")


def _convnext_block(prefix, block):
    yield Entry(f"{prefix}gamma", block.gamma, "same")
    yield from affine(f"{prefix}conv_dw", block.depthwise, "conv")
    yield from _layer_norm(f"{prefix}norm", block.norm)
    yield from affine(f"{prefix}mlp.fc1", block.expand, "linear")
    yield from affine(f"{prefix}mlp.fc2", block.project, "linear")


def convnext(prefix: str, model: "ConvNeXt") -> Iterator[Entry]:
    """Yields the entries of a ConvNeXt."""
    yield from affine(f"{prefix}stem.0", model.stem, "conv")
    yield from _layer_norm(f"{prefix}stem.1", model.stem_norm)
    for i, stage in enumerate(model.stages):
        if i:
            downsample = model.downsamples[i - 1]
            yield from _layer_norm(f"{prefix}stages.{i}.downsample.0", downsample.norm)
            yield from affine(f"{prefix}stages.{i}.downsample.1", downsample.conv, "conv")
        for j, block in enumerate(stage):
            yield from _convnext_block(f"{prefix}stages.{i}.blocks.{j}.", block)
    yield from _layer_norm(f"{prefix}head.norm", model.head_norm)
    yield from affine(f"{prefix}head.fc", model.classifier, "linear")
