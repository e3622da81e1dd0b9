"""Small networks with exactly binary weights and random statistics, as after training."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.save import described
from bnext_jax.models.table import create_model
from bnext_jax.nn.batch_norm import BatchNorm


def exact_network(name="bnext", classes=10, **arguments):
    """Returns (network, metadata). The temperature, if the network has one, is 0. Batch norms, shifts and slopes have random values."""
    model = create_model(name, classes, rngs=nnx.Rngs(0), **arguments)
    rng = np.random.default_rng(0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            for variable, low, high in ((module.scale, 0.5, 1.5), (module.bias, -1, 1), (module.mean, -1, 1), (module.var, 0.5, 2)):
                variable[...] = jnp.asarray(rng.uniform(low, high, variable.shape), jnp.float32)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if path[-1] in ("shift", "slope"):
            variable.set_value(jnp.asarray(rng.uniform(-0.3, 0.3, variable.shape), jnp.float32))
    if hasattr(model, "temperature"):
        model.temperature[...] = 0
    return model, without_run(model, described(model))


def logits(model, images):
    """The logits of a network, computed as one program."""
    graphdef, state = nnx.split(model)
    return np.asarray(nnx.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images))
