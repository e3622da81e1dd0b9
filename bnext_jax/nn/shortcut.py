"""The real shortcut of residual networks where a block has stride 2: average pool, 1x1 convolution, batch norm."""

from collections.abc import Callable

import jax
from flax import nnx

from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.layers import Conv, Initializer, average_pool


class PooledShortcut(nnx.Module):
    """y = norm(conv1x1(average_pool(x))).

    Args:
      inputs: input channels.
      features: output channels.
      norm: makes the batch norm from its number of channels.
      initializer: draws the kernel, see nn.layers.Conv.
      rngs: random streams; the layer draws its parameters from "params".
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        *,
        norm: Callable[[int], BatchNorm] = BatchNorm,
        initializer: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = Conv(inputs, features, 1, initializer=initializer, rngs=rngs)
        self.norm = norm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N,H,W,C] to [N,H/2,W/2,C']. Raises UserError for an odd height or width."""
        return self.norm(self.conv(average_pool(x)))
