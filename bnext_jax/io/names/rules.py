"""The reference implementation's name and layout for every variable of the networks, and the layouts themselves."""

from collections.abc import Callable, Iterator

import numpy as np
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io.names import bnext, frame18, meliusnet, pokebnn, reactnet_a, real_to_binary, teachers
from bnext_jax.io.names.entry import Entry
from bnext_jax.models import birealnet, bnn, reactnet, xnornet
from bnext_jax.models.bnext import BNext
from bnext_jax.models.bnext18 import BNext18
from bnext_jax.models.convnext import ConvNeXt
from bnext_jax.models.efficientnet import EfficientNet
from bnext_jax.models.meliusnet import Block as MeliusBlock
from bnext_jax.models.meliusnet import MeliusNet
from bnext_jax.models.pokebnn import Bottleneck, PokeBNN
from bnext_jax.models.real_to_binary import HalfBlock, RealToBinary, StrongBaseline
from bnext_jax.models.resnet import Block as ResNetBlock
from bnext_jax.models.resnet import ResNet
from bnext_jax.nn import bnext_units

COUNT = "count"  # the layout of num_batches_tracked


def _flat_to_ours(array, shape):
    size, _, inputs, outputs = shape
    return array.reshape(outputs, inputs, size, size).transpose(2, 3, 1, 0)


# layout -> (ours to theirs, theirs to ours), functions of a numpy array; the second one also of our shape. Comments: axes here, axes there
LAYOUTS: dict[str, tuple[Callable, Callable]] = {
    "same": (lambda a: a, lambda a, _: a),
    "conv": (lambda a: a.transpose(3, 2, 0, 1), lambda a, _: a.transpose(2, 3, 1, 0)),  # HWIO, OIHW
    "flat": (lambda a: a.transpose(3, 2, 0, 1).reshape(-1, 1), _flat_to_ours),  # HWIO, (OIHW)1
    "linear": (lambda a: a.T, lambda a, _: a.T),  # IO, OI
    "gate": (lambda a: a.T[:, :, None, None], lambda a, _: a[:, :, 0, 0].T),  # IO, OI11
    "pointwise": (lambda a: a[None, None], lambda a, _: a[0, 0]),  # IO, 11IO
    "channel": (lambda a: a[None, :, None, None], lambda a, _: a[0, :, 0, 0]),  # C, 1C11
    "last": (lambda a: a[None, None], lambda a, _: a[0, 0]),  # C, 11C
    "bounds": (lambda a: a[None, None, None], lambda a, _: a[0, 0, 0]),  # C, 111C
    "row": (lambda a: a[None], lambda a, _: a[0]),  # C, 1C
    "rows": (lambda a: a[:, None, None], lambda a, _: a[:, 0, 0]),  # H, H11
    "columns": (lambda a: a[None, :, None], lambda a, _: a[0, :, 0]),  # W, 1W1
    COUNT: (lambda a: a.astype(np.int64), lambda a, _: a.astype(np.int32)),
    "temperature": (lambda a: a.reshape(1), lambda a, _: a.reshape(())),
}

# class of a module -> function of (prefix, module) that yields its entries
RULES: dict[type[nnx.Module], Callable[..., Iterator[Entry]]] = {
    BNext: bnext.bnext,
    BNext18: bnext.bnext18,
    bnn.Bnn: frame18.network(frame18.bnn_block),
    xnornet.XnorNet: frame18.network(frame18.xnornet_block),
    birealnet.BiRealNet: frame18.network(frame18.birealnet_block),
    reactnet.ReActNet18: frame18.network(frame18.reactnet18_block),
    reactnet.ReActNetA: reactnet_a.network,
    RealToBinary: real_to_binary.network,
    StrongBaseline: real_to_binary.network,
    ResNet: frame18.network(frame18.resnet_block),
    EfficientNet: teachers.efficientnet,
    ConvNeXt: teachers.convnext,
    MeliusNet: meliusnet.network,
    MeliusBlock: meliusnet.block,
    PokeBNN: pokebnn.pokebnn,
    Bottleneck: pokebnn.bottleneck,
    bnext_units.BasicBlock: bnext.block,
    bnext_units.BinaryFeedForward: bnext.unit,
    bnext_units.ElmAttention: bnext.unit,
    bnext_units.ElmAttention18: bnext.unit,
    bnn.Block: frame18.bnn_block,
    xnornet.Block: frame18.xnornet_block,
    birealnet.Block: frame18.birealnet_block,
    reactnet.Block18: frame18.reactnet18_block,
    ResNetBlock: frame18.resnet_block,
    reactnet.BlockA: reactnet_a.block,
    HalfBlock: real_to_binary.half_block,
}


def entries(module: nnx.Module) -> list[Entry]:
    """The entries of all tensors in a module's state dict, in the reference's order.

    Args:
      module: a network, or a block or unit of it.
    Raises:
      UserError: the module has no counterpart.
    """
    if type(module) not in RULES:
        raise UserError(f"no names of another program are known for {type(module).__name__}")
    return list(RULES[type(module)]("", module))
