"""The state of training as plain data, and what the network's metadata says about it.

Variables travel as flat dicts {"blocks/0/unit3x3/scale": array}: plain leaves cost the host little per step (measured by
benchmarks/train_step.py), a checkpoint's keys are readable, and bounds and decay groups are looked up by the same path.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from bnext_jax.nn.binary_conv import LatentWeight


def _variables(state):
    return {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def flatten(state):
    """nnx.State -> {"a/b/0": array}."""
    return {path: variable.get_value() for path, variable in _variables(state).items()}


def unflatten(flat):
    """{"a/b/0": array} -> the nested dict that nnx.merge takes (digits are list positions)."""
    nested = {}
    for path, value in flat.items():
        *parents, leaf = (int(key) if key.isdigit() else key for key in path.split("/"))
        node = nested
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value
    return nested


@dataclasses.dataclass(frozen=True, eq=False)  # compared and hashed by identity, as jit wants it
class Network:
    """A network split into structure and data.

    Attributes:
      graphdef: the structure, to be merged with variables inside jit.
      bounds: {path: (low, high)} of the parameters that are projected after each update.
      decay_groups: {path: "weights" or "rest"} of every parameter.
      latent: {path: WeightQuantizer} of the latent weights.
    """

    graphdef: nnx.GraphDef
    bounds: dict
    decay_groups: dict
    latent: dict

    def has_exact_signs(self, temperature):
        """Whether all binary weights are exact signs at this temperature, as their quantizers say; None for a network without any."""
        return all(quantizer.is_exact(temperature) for quantizer in self.latent.values()) if self.latent else None

    def __call__(self, variables, images, temperature=None):
        """Logits and the variables that the forward changed: ({path: array}, [N,H,W,3], scalar) -> ([N,C], {path: array})."""
        model = nnx.merge(self.graphdef, unflatten(variables))
        logits = model(images, temperature)
        return logits, flatten(nnx.state(model, nnx.BatchStat))


def split(model, *, training, batch_norm_group=None):
    """(Network, params, batch_stats) of a module: both flat dicts; batch_stats holds all that is not a parameter.

    training: batch statistics, with groups of `batch_norm_group` examples; otherwise running statistics.
    """
    view = nnx.view(model, use_running_average=not training, batch_norm_group=batch_norm_group, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(view, nnx.Param, ...)
    variables = _variables(params)
    bounds = {path: v.get_metadata().get("bounds") for path, v in variables.items()}
    network = Network(
        graphdef=graphdef,
        bounds={path: pair for path, pair in bounds.items() if pair is not None},
        decay_groups={path: v.get_metadata()["decay"] for path, v in variables.items()},
        latent={path: v.get_metadata()["quantizer"] for path, v in variables.items() if isinstance(v, LatentWeight)},
    )
    return network, flatten(params), flatten(rest)


def fill(model, params, batch_stats):
    """A module of the same structure as `model` (abstract or not) that holds these flat dicts of arrays. Paths must match exactly."""
    graphdef, _ = nnx.split(model)
    return nnx.merge(graphdef, unflatten({**params, **batch_stats}))


def project(params, bounds):
    """Clips each parameter that has bounds to them, after each update: latent weights to their quantizer's, `scale` to [0, 1]."""
    return {path: jnp.clip(p, *bounds[path]) if path in bounds else p for path, p in params.items()}
