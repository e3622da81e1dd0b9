"""Exports a network with exactly binary weights from PyTorch to ONNX, as floats. Needs the package onnx.

    python benchmarks/torch_bnext.py bnext_tiny.pth.tar bnext_tiny.onnx [PIXELS]

The PyTorch network is bnext_jax/io/torch/inference.py: a PyTorch file that bnext_jax writes loads into it with strict=True.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from bnext_jax.io.torch.inference import from_file, is_exact, to_onnx


def main(source, target, pixels="224"):
    """Exports a file."""
    model = from_file(source)
    if not is_exact(model):
        sys.exit(f"{source}: its weights are not exactly binary yet")
    to_onnx(model.fixed(), int(pixels), target)
    print(f"{target}: {pathlib.Path(target).stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
