"""BNext, the binary network that passed 80 % top-1 on ImageNet (arXiv 2211.12933), and its pieces, in JAX and Flax NNX.

What stands here is the public surface; each name is imported when it is first used, so that `import bnext_jax` is fast:

    from bnext_jax import create_model, load
    model = create_model("bnext_tiny", num_classes=1000, rngs=nnx.Rngs(0))   # images [N,H,W,3], normalised -> logits [N,classes]
    model, metadata = load("runs/tiny")                                      # or a PyTorch file
"""

import importlib

__version__ = "0.2.0"

# name -> the module that has it
_NAMES = {
    # networks
    "create_model": "bnext_jax.models.table",
    "abstract_model": "bnext_jax.models.table",
    "model_config": "bnext_jax.models.table",
    "MODELS": "bnext_jax.models.table",
    # from and to files
    "load": "bnext_jax.io.load",
    "save": "bnext_jax.io.save",
    "from_state_dict": "bnext_jax.io.torch.state_dict",
    "to_state_dict": "bnext_jax.io.torch.state_dict",
    # to build a binary network of one's own
    "ActivationQuantizer": "bnext_jax.nn.quantizers",
    "WeightQuantizer": "bnext_jax.nn.quantizers",
    "SteSign": "bnext_jax.nn.quantizers",
    "AnnealedSign": "bnext_jax.nn.quantizers",
    "BinaryConv": "bnext_jax.nn.binary_conv",
    "LatentWeight": "bnext_jax.nn.binary_conv",
    "BatchNorm": "bnext_jax.nn.layers",
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


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value  # the next use finds it here
    return value


def __dir__():
    return sorted({*globals(), *__all__})
