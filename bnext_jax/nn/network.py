"""The variables of a network as plain data, and the metadata of these variables.

Variables are flat dicts {"blocks/0/unit3x3/scale": array}. Plain leaves cost the host little time per step (measured by
benchmarks/train_step.py). Checkpoints have readable keys. Bounds and decay groups use the same paths as keys.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.binary_conv import LatentWeight
from bnext_jax.nn.variables import Switch, Temperature


def _variables(state: nnx.State) -> dict[str, nnx.Variable]:
    return {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def flatten(state: nnx.State) -> dict[str, jax.Array]:
    """Converts an nnx.State to a flat dict {"a/b/0": array}."""
    return {path: variable.get_value() for path, variable in _variables(state).items()}


def unflatten(flat: Mapping[str, Any]) -> dict[str | int, Any]:
    """Converts a flat dict {"a/b/0": array} to the nested dict that nnx.merge takes. A key of digits is a position in a list."""
    nested: dict[str | int, Any] = {}
    for path, value in flat.items():
        *parents, leaf = (int(key) if key.isdigit() else key for key in path.split("/"))
        node = nested
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value
    return nested


@dataclasses.dataclass(frozen=True, eq=False)  # eq=False: compared and hashed by identity, which jit needs
class Network:
    """The structure of a network, without its variables.

    Attributes:
      graphdef: the structure. __call__ merges it with variables inside jit.
      bounds: {path: (low, high)} of the parameters that `project` clips after each update.
      decay_groups: {path: "weights" or "rest"} of every parameter.
      latent: {path: WeightQuantizer} of the latent weights.
      temperature: path of the Temperature; None for a network that takes no temperature.
      switches: {path: (unit, since)} of the switches, see nn.variables.Switch.
      binarizers: paths of the switches without which the latent weights are not binarized.
      own_statistics: paths of the running statistics that are not those of a BatchNorm.
      has_taps: whether the network can give the output of each block, see TableModel.
    """

    graphdef: nnx.GraphDef
    bounds: dict
    decay_groups: dict
    latent: dict
    temperature: str | None
    switches: dict
    binarizers: tuple
    own_statistics: tuple
    has_taps: bool

    def binarizes(self, variables: Mapping[str, jax.Array]) -> bool:
        """Whether the switches in the variables {path: array} let the network binarize its latent weights."""
        return all(bool(variables[path]) for path in self.binarizers)

    def has_exact_signs(self, variables: Mapping[str, jax.Array], temperature: float | None) -> bool | None:
        """Whether the network multiplies with exact signs at this temperature. None for a network without binary weights.

        Args:
          variables: {path: array}, at least the variables that are not parameters.
          temperature: scalar T of the binary weights; None for a network that takes none.
        """
        if not self.latent:
            return None
        return self.binarizes(variables) and all(quantizer.is_exact(temperature) for quantizer in self.latent.values())

    def __call__(
        self,
        variables: Mapping[str, jax.Array],
        images: jax.Array,
        temperature: jax.Array | float | None = None,
        taps: list[jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs the forward pass.

        Args:
          variables: {path: array}, all variables of the network.
          images: [N,H,W,3], normalized.
          temperature: scalar T of the binary weights; None means the network's own Temperature. A network that takes none needs None.
          taps: a list, to which the output of each block is appended; only for a network with TableModel.has_taps.
        Returns:
          (logits [N,C], {path: array} of the batch statistics after the pass).
        """
        model = nnx.merge(self.graphdef, unflatten(variables))
        options = {} if taps is None else {"taps": taps}
        logits = model(images, **options) if temperature is None else model(images, temperature, **options)
        return logits, flatten(nnx.state(model, nnx.BatchStat))


def split(
    model: nnx.Module, *, training: bool, batch_norm_group: int | None = None
) -> tuple[Network, dict[str, jax.Array], dict[str, jax.Array]]:
    """Splits a module into structure and variables.

    Args:
      model: the module, abstract or not.
      training: True for batch statistics, False for running statistics.
      batch_norm_group: number of examples that share batch statistics; None means the whole batch.
    Returns:
      (Network, params, batch_stats). params and batch_stats are flat dicts. batch_stats holds all variables that are not parameters.
    """
    view = nnx.view(model, use_running_average=not training, batch_norm_group=batch_norm_group, raise_if_not_found=False)
    graphdef, params, rest = nnx.split(view, nnx.Param, ...)  # type: ignore[misc]
    variables, others = _variables(params), _variables(rest)
    switches = {path: v.get_metadata() for path, v in others.items() if isinstance(v, Switch)}
    norms = {"/".join(map(str, path)) for path, module in nnx.iter_modules(view) if isinstance(module, BatchNorm)}
    statistics = [path for path, v in others.items() if isinstance(v, nnx.BatchStat)]
    bounds = {path: v.get_metadata().get("bounds") for path, v in variables.items()}
    network = Network(
        graphdef=graphdef,
        bounds={path: pair for path, pair in bounds.items() if pair is not None},
        decay_groups={path: v.get_metadata().get("decay", "rest") for path, v in variables.items()},
        latent={path: v.get_metadata()["quantizer"] for path, v in variables.items() if isinstance(v, LatentWeight)},
        temperature=next((path for path, v in others.items() if isinstance(v, Temperature)), None),
        switches={path: (told["unit"], told["since"]) for path, told in switches.items()},
        binarizers=tuple(path for path, told in switches.items() if told["binarizes"]),
        own_statistics=tuple(path for path in statistics if path.rpartition("/")[0] not in norms),
        has_taps=getattr(model, "has_taps", False),
    )
    return network, flatten(params), flatten(rest)


def fill(model: nnx.Module, params: Mapping[str, jax.Array], batch_stats: Mapping[str, jax.Array]) -> nnx.Module:
    """Makes a module with the structure of `model` and the given variables.

    Args:
      model: the module, abstract or not.
      params: flat dict of the parameters. The paths must match those of the model exactly.
      batch_stats: flat dict of all other variables. The paths must match exactly too.
    Returns:
      A new module.
    """
    graphdef, _ = nnx.split(model)
    return nnx.merge(graphdef, unflatten({**params, **batch_stats}))


def project(params: Mapping[str, jax.Array], bounds: Mapping[str, tuple[float, float]]) -> dict[str, jax.Array]:
    """Clips each parameter to its bounds, if it has any. The training step calls this after each update.

    Latent weights have the bounds of their quantizer, and `scale` has [0, 1].

    Args:
      params: {path: array}.
      bounds: {path: (low, high)}.
    Returns:
      {path: array}, the same paths as params.
    """
    return {path: jnp.clip(p, *bounds[path]) if path in bounds else p for path, p in params.items()}
