"""The programs that `bench` compares: the packed network in C and in XLA, and the same network in floats, here, in PyTorch and in ONNX.

Each contender takes images [N,H,W,3], normalized float32, and returns logits. PyTorch and ONNX get the images in their own layout, before
the clock starts.
"""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bnext_jax.errors import UserError, one_line
from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.models.base import TableModel
from bnext_jax.nn.network import split
from bnext_jax.packed import build, network
from bnext_jax.packed.engine import Engine

if TYPE_CHECKING:
    from bnext_jax.io.torch.inference import Network

C, XLA, FLOAT = "packed, C", "packed, XLA", "float, bnext_jax"
TORCH, TORCH_LAST = "float, PyTorch", "float, PyTorch, channels_last"
ONNX, ONNX8 = "float, onnxruntime", "int8, onnxruntime"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One program.

    Attributes:
      name: its name in the table.
      prepare: images [N,H,W,3] -> what `run` takes.
      run: computes the logits of prepared images, and returns when they are there.
    """

    name: str
    prepare: Callable[[np.ndarray], Any]
    run: Callable[[Any], Any]


def _in_jax(name: str, model: TableModel) -> Contender:
    structure, params, rest = split(model, training=False)
    variables = {**params, **rest}

    @jax.jit
    def forward(variables, images):
        with jax.default_matmul_precision("highest"):
            return structure(variables, images)[0]

    return Contender(name, jax.device_put, lambda images: jax.block_until_ready(forward(variables, images)))


def packed_c(path: os.PathLike | str, threads: int, kernel: str | None = None) -> Contender:
    """The engine in C, called without JAX. `kernel` as in Engine."""
    engine = Engine(path, threads, kernel)
    return Contender(C if kernel is None else f"{C} ({kernel})", np.ascontiguousarray, engine)


def _torch(model: "Network", last: bool) -> Contender:
    import torch

    kind = torch.channels_last if last else torch.contiguous_format
    net = model.to(memory_format=kind)  # type: ignore[call-overload]

    def run(images):
        with torch.inference_mode():
            return net(images)

    return Contender(
        TORCH_LAST if last else TORCH, lambda images: torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=kind), run
    )


def in_torch(model: TableModel, threads: int) -> list[Contender]:
    """The float network in PyTorch, in both layouts, its binary weights computed once.

    Args:
      model: the float network with exactly binary weights.
      threads: threads of PyTorch.
    """
    import torch

    torch.set_num_threads(threads)
    return [_torch(torch_network(model), last) for last in (False, True)]


def torch_network(model: TableModel) -> "Network":
    """The network in PyTorch, loaded strictly from the state dict that bnext_jax writes."""
    import torch

    from bnext_jax.io.torch.inference import from_tensors

    tensors = {name: torch.from_numpy(np.array(value)) for name, value in to_state_dict(model).items()}
    return from_tensors(tensors, getattr(model.config, "stem_stride", None)).fixed()


def in_onnx(model: TableModel, threads: int, side: int, folder: pathlib.Path) -> list[Contender]:
    """The float network in onnxruntime, in float32 and with convolutions of 8 bits.

    Args:
      model: the float network with exactly binary weights.
      threads: threads of onnxruntime.
      side: height and width of an image, in pixels.
      folder: for the files of ONNX.
    """
    import onnxruntime
    from onnxruntime import quantization

    from bnext_jax.io.torch.inference import to_onnx

    class Calibration(quantization.CalibrationDataReader):
        """Random images, from which the ranges of 8 bits are computed."""

        def __init__(self) -> None:
            self.images = iter(np.random.default_rng(0).standard_normal((4, 1, 3, side, side)).astype(np.float32))

        def get_next(self):
            one = next(self.images, None)
            return None if one is None else {"images": one}

    plain, joined, eight = folder / "float.onnx", folder / "joined.onnx", folder / "int8.onnx"
    to_onnx(torch_network(model), side, plain)
    quantization.quant_pre_process(str(plain), str(joined), skip_symbolic_shape=True)  # joins norms and convolutions
    quantization.quantize_static(str(joined), str(eight), Calibration(), quant_format=quantization.QuantFormat.QDQ)

    def contender(name, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return Contender(
            name, lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)), lambda images: session.run(None, {"images": images})
        )

    return [contender(ONNX, plain), contender(ONNX8, eight)]


def all_of(path: pathlib.Path, threads: int, side: int, folder: pathlib.Path) -> tuple[list[Contender], list[str]]:
    """The contenders that run on this machine.

    Args:
      path: the packed file.
      threads: threads of each contender that has a setting for them.
      side: height and width of an image, in pixels.
      folder: for files that contenders need.
    Returns:
      (contenders, reasons why others are missing).
    """
    model, _ = network.load(path, network.FLOAT)
    found, missing = [], []
    if why := build.reason():
        missing.append(f"{C}: {why}")
    else:
        try:
            found.append(packed_c(path, threads))
        except UserError as error:  # the engine does not know this network
            missing.append(f"{C}: {error}")
    found += [_in_jax(XLA, network.load(path, network.XLA)[0]), _in_jax(FLOAT, model)]
    supported = model.config.edition(4) is None or model.config.gate_bits is None
    for modules, make in (
        (("torch",), lambda: in_torch(model, threads)),
        (("torch", "onnx", "onnxruntime"), lambda: in_onnx(model, threads, side, folder)),
    ):
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            missing.append(f"{modules[-1]}: {', '.join(absent)} is not installed; install bnext_jax with its extra [bench]")
        elif not supported:
            missing.append(f"{modules[-1]}: the PyTorch network has no quantized edition")
        else:
            try:
                found += make()
            except Exception as error:  # another version of these packages may fail in any way; the others still run
                missing.append(f"{modules[-1]}: {type(error).__name__}: {one_line(error)}")
    return found, missing
