"""BNext, the first binary network above 80 % top-1 on ImageNet (Guo et al. 2022, arXiv 2211.12933), in JAX and Flax NNX.

This module is the public API. Python imports each name at its first use, so `import bnext_jax` is fast.

    from flax import nnx
    from bnext_jax import create_model, load

    model = create_model("bnext_tiny", num_classes=1000, rngs=nnx.Rngs(0))
    logits = model(images)               # [N, H, W, 3], normalized -> [N, 1000]
    model, metadata = load("runs/tiny")  # a work directory or a PyTorch file
"""

import importlib
from typing import Any

__version__ = "0.2.0"

# public name -> module that defines it
_NAMES = {
    # networks
    "create_model": "bnext_jax.models.table",
    "abstract_model": "bnext_jax.models.table",
    "model_config": "bnext_jax.models.table",
    "MODELS": "bnext_jax.models.table",
    # files
    "load": "bnext_jax.io.load",
    "save": "bnext_jax.io.save",
    "from_state_dict": "bnext_jax.io.torch.state_dict",
    "to_state_dict": "bnext_jax.io.torch.state_dict",
    # layers and quantizers for your own binary network
    "ActivationQuantizer": "bnext_jax.nn.quantizers",
    "WeightQuantizer": "bnext_jax.nn.quantizers",
    "SteSign": "bnext_jax.nn.quantizers",
    "ApproxSign": "bnext_jax.nn.quantizers",
    "AqtSign": "bnext_jax.nn.quantizers",
    "Tanh": "bnext_jax.nn.real_rules",
    "AnnealedSign": "bnext_jax.nn.weight_quantizers",
    "SteWeightSign": "bnext_jax.nn.weight_quantizers",
    "MagnitudeAwareSign": "bnext_jax.nn.weight_quantizers",
    "XnorWeightScale": "bnext_jax.nn.weight_quantizers",
    "AqtWeightSign": "bnext_jax.nn.weight_quantizers",
    "RealWeight": "bnext_jax.nn.real_rules",
    "BinaryConv": "bnext_jax.nn.binary_conv",
    "Switch": "bnext_jax.nn.variables",
    "LatentWeight": "bnext_jax.nn.binary_conv",
    "BatchNorm": "bnext_jax.nn.batch_norm",
    "Conv": "bnext_jax.nn.layers",
    "Linear": "bnext_jax.nn.layers",
    "PReLU": "bnext_jax.nn.layers",
    "Gate": "bnext_jax.nn.layers",
    "BasicBlock": "bnext_jax.nn.bnext_units",
    "BinaryFeedForward": "bnext_jax.nn.bnext_units",
    "ElmAttention": "bnext_jax.nn.bnext_units",
    # runs
    "Config": "bnext_jax.config",
    "train": "bnext_jax.training.loop",
    "evaluate": "bnext_jax.commands.evaluate",
    "UserError": "bnext_jax.errors",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value  # Python calls __getattr__ only for missing names, so the next use is direct
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
