"""Batch norm over groups of examples."""

from types import EllipsisType

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError
from bnext_jax.nn.layers import channel_sums, spatial

NORM_EPSILON = 1e-5
NORM_DECAY = 0.9  # decay of the running statistics; PyTorch calls it momentum 0.1


class GroupStatistics(nnx.Module):
    """A layer whose training statistics are those of groups of examples, averaged over the groups.

    Attributes:
      use_running_average: True in evaluation. Set it with nnx.view.
      batch_norm_group: number of examples that share statistics; None means the whole batch. Set it with nnx.view.
    """

    def __init__(self) -> None:
        self.use_running_average = False
        self.batch_norm_group: int | None = None

    def set_view(self, use_running_average: bool | None = None, batch_norm_group: int | EllipsisType | None = ...) -> None:
        """Changes attributes; nnx.view calls this method.

        Args:
          use_running_average: new value; None changes nothing.
          batch_norm_group: new value; ... changes nothing.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if batch_norm_group is not ...:
            self.batch_norm_group = batch_norm_group

    def group(self, examples: int) -> int:
        """The number of examples of a group in a batch of so many. Raises UserError if it does not divide the batch."""
        group = self.batch_norm_group or examples
        if examples % group:
            raise UserError(f"a batch of {examples} does not divide into batch-norm groups of {group}; change batch_norm_group")
        return group


class BatchNorm(GroupStatistics):
    """Batch norm with PyTorch's unbiased running variance, computed from per-image sums. Examples share statistics in groups.

    A group has n = examples * positions values per channel. It normalizes with mean = sum/n and the biased var = sum_sq/n - mean^2.
    After a batch, running = decay running + (1 - decay) new. `new` is, averaged over groups: for the mean, mean; for the variance,
    var * n/(n-1), or var if the running variance is biased.

    Args:
      features: channels.
      epsilon: added to the variance.
      decay: of the running statistics. PyTorch's momentum is 1 - decay, Keras's and Flax's is decay.
      unbiased: False means that the running variance is the biased one, as in Flax.
      kind: type of the variables of scale and bias: nnx.Param, or Buffer where they are kept but not trained.
    """

    def __init__(
        self,
        features: int,
        *,
        epsilon: float = NORM_EPSILON,
        decay: float = NORM_DECAY,
        unbiased: bool = True,
        kind: type[nnx.Variable] = nnx.Param,
    ) -> None:
        super().__init__()
        self.epsilon, self.decay, self.unbiased = epsilon, decay, unbiased
        self.scale = kind(jnp.ones((features,)), decay="rest")
        self.bias = kind(jnp.zeros((features,)), decay="rest")
        self.mean = nnx.BatchStat(jnp.zeros((features,)))
        self.var = nnx.BatchStat(jnp.ones((features,)))
        self.batches = nnx.BatchStat(jnp.zeros((), jnp.int32))  # PyTorch's num_batches_tracked

    def affine(self, total: jax.Array, total_sq: jax.Array, positions: int) -> tuple[jax.Array, jax.Array]:
        """Computes a and b such that x * a + b is the normalized x. In training it also updates the running statistics.

        Args:
          total: sums of x over the positions of each image, [N,C].
          total_sq: sums of x*x over the positions of each image, [N,C].
          positions: number of positions of an image, H*W.
        Returns:
          (a, b), [N,C] each in training, [1,C] each in evaluation.
        Raises:
          UserError: N is not divisible by batch_norm_group.
        """
        scale, bias = self.scale[...].astype(total.dtype), self.bias[...].astype(total.dtype)
        if self.use_running_average:
            mean, var = self.mean[...].astype(total.dtype)[None], self.var[...].astype(total.dtype)[None]
        else:
            examples, channels = total.shape
            group = self.group(examples)
            count = group * positions
            sums = total.reshape(-1, group, channels).sum(1), total_sq.reshape(-1, group, channels).sum(1)
            mean = sums[0] / count
            var = jnp.maximum(sums[1] / count - jnp.square(mean), 0)
            self._update(mean.mean(0), var.mean(0) * (count / max(count - 1, 1) if self.unbiased else 1))
            spread = (mean.shape[0], group, channels)  # broadcast and reshape, because jnp.repeat gathers across devices
            mean = jnp.broadcast_to(mean[:, None], spread).reshape(examples, channels)
            var = jnp.broadcast_to(var[:, None], spread).reshape(examples, channels)
        a = scale * lax.rsqrt(var + self.epsilon)
        return a, bias - mean * a

    def _update(self, mean, var):
        for running, new in ((self.mean, mean), (self.var, var)):
            running[...] = self.decay * running[...] + (1 - self.decay) * lax.stop_gradient(new).astype(running.dtype)
        self.batches[...] = self.batches[...] + 1

    def with_means(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalizes x [N,H,W,C], and computes the channel means of the result from those of x.

        Returns:
          (normalized x [N,H,W,C] in the type of x, its channel means [N,C] in at least float32).
        """
        total, total_sq = channel_sums(x)
        positions = x.shape[1] * x.shape[2]
        a, b = self.affine(total, total_sq, positions)
        y = (x.astype(a.dtype) * spatial(a, a.dtype) + spatial(b, b.dtype)).astype(x.dtype)
        return y, a * (total / positions) + b

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes x [N,H,W,C]. The result has the shape and type of x."""
        return self.with_means(x)[0]  # in evaluation the compiler removes the sums as dead code
