"""A small form of each of the eight networks, three blocks deep, for images of 16x16 pixels with the CIFAR stem."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.models.table import create_model
from bnext_jax.nn.binary_conv import LatentWeight

FRAME = {"widths": (16, 32, 64), "depth": 1}
SMALL = {
    "bnn18": FRAME,
    "xnornet18": FRAME,
    "birealnet18": FRAME,
    "real_to_binary": FRAME,
    "strong_baseline": {**FRAME, "resolution": 16},
    "reactnet18": FRAME,
    "reactnet_a": {"widths": (16, 32, 64, 64)},
    "meliusnet": {"blocks": (1, 1, 1), "transitions": (32, 32), "growth": 16, "stem_width": 16},
    "pokebnn": {"multiplier": 0.25, "depths": (1, 1, 1), "widths": (32, 64, 128), "bounds_from_step": 30, "quantized_from_epoch": 2},
}


def varied(name, classes=10, **more):
    """A small network whose parameters and statistics are not the fresh ones. Bounds of low-bit layers are set."""
    model = create_model(name, classes, rngs=nnx.Rngs(0), **{**SMALL[name], **more})
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        value = variable.get_value()
        if not jnp.issubdtype(value.dtype, jnp.floating):
            continue
        drawn = rng.standard_normal(value.shape, np.float32)
        if path[-1] == "bounds":
            value = 2 + np.abs(drawn)
        elif path[-1] == "var":
            value = 0.5 + np.abs(drawn)
        elif isinstance(variable, LatentWeight):
            value = 0.5 * drawn
        else:
            value = value + 0.1 * drawn
        variable.set_value(jnp.asarray(value, jnp.float32))
    return model


def logits(model, seed=1):
    """The logits of two random images of 16x16 pixels."""
    images = jnp.asarray(np.random.default_rng(seed).standard_normal((2, 16, 16, 3), np.float32))
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda x: model(x))(images))
