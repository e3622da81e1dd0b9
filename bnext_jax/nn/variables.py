"""The kinds of variables that are not parameters: buffers, the temperature, switches, statistics that only training reads.

Other running statistics are nnx.BatchStat.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.bounds import COUNT
from bnext_jax.errors import UserError


class Buffer(nnx.Variable):
    """An array kept only for the round trip with PyTorch, such as an unused PReLU or norm. It is not trained and has no weight decay."""


class Temperature(nnx.Variable):
    """The current temperature of a network's binary weights. It is data, not a parameter, so a new value needs no compilation."""


class TrainingStatistic(nnx.BatchStat):
    """A running statistic that only training reads. A packed file leaves it out, and a network that is made from one has zeros there."""


class Switch(nnx.Variable):
    """A boolean scalar that turns on at a step or an epoch of a training. A layer reads it in its forward pass. A fresh one is on.

    The training step sets it, as a function of the step: off before the step or epoch `since`, counted from 0, and on from then on. A
    checkpoint keeps the value of its last step. Like a Temperature it is data, so that a new value needs no compilation.

    Args:
      value: the initial value.
      unit: "step" or "epoch", what `since` counts.
      since: the first step or epoch in which it is on.
      binarizes: whether, while it is off, the network's binary convolutions multiply with the real latent weights. Such weights are then
          not binary: results say so, and `pack` refuses them.
    Raises:
      UserError: another unit, or `since` is not a whole number from 0 to 2^31 - 1.
    """

    UNITS = ("step", "epoch")

    def __init__(self, value: jax.Array | bool = True, *, unit: str, since: int, binarizes: bool = False, **metadata: Any) -> None:
        if unit not in self.UNITS or not isinstance(since, int) or not 0 <= since <= COUNT:
            raise UserError(f"a switch counts steps or epochs from 0 to {COUNT}; got unit {unit!r}, since {since!r}")
        super().__init__(jnp.asarray(value, jnp.bool_), unit=unit, since=since, binarizes=binarizes, **metadata)


def real_until(module: nnx.Module) -> str | None:
    """When a switch that is still off will let a network binarize its weights, for example "epoch 50". None if none is off."""
    for _, variable in nnx.to_flat_state(nnx.state(module, Switch)):
        told = variable.get_metadata()
        if told["binarizes"] and not variable.get_value():
            return f"{told['unit']} {told['since']}"
    return None
