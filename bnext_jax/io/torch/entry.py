"""One tensor of a PyTorch state dict, and the tensors of a norm and of an affine layer."""

import dataclasses

from flax import nnx


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a PyTorch state dict: its name, the variable that holds it here, and the layout that joins them."""

    name: str
    variable: nnx.Variable
    layout: str


def norm(prefix, layer):
    """The five entries of a BatchNorm."""
    yield Entry(f"{prefix}.weight", layer.scale, "same")
    yield Entry(f"{prefix}.bias", layer.bias, "same")
    yield Entry(f"{prefix}.running_mean", layer.mean, "same")
    yield Entry(f"{prefix}.running_var", layer.var, "same")
    yield Entry(f"{prefix}.num_batches_tracked", layer.batches, "count")


def affine(prefix, layer, layout):
    """The kernel, in `layout` (a key of names.LAYOUTS), the bias and the clip limits, if any, of a Conv or Linear."""
    yield Entry(f"{prefix}.weight", layer.kernel, layout)
    if layer.bias is not None:
        yield Entry(f"{prefix}.bias", layer.bias, "same")
    quantizer = layer.quantizer
    if quantizer is not None:
        if quantizer.scale is not None:
            yield Entry(f"{prefix}.scale", quantizer.scale, "same")
        yield Entry(f"{prefix}.weight_clip_val", quantizer.weight_clip, "same")
        yield Entry(f"{prefix}.{'activation' if quantizer.scale is None else 'act'}_clip_val", quantizer.input_clip, "same")
