"""The real-valued layers of BNext: PReLU, the squeeze-and-excitation gate, batch norm with its grouping, convolution, linear.

Parameters carry their weight-decay group as metadata: "weights" for whatever has four dimensions in the PyTorch state
dict (convolutions, gate convolutions, shift, scale), "rest" for everything else.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bnext_jax.errors import UserError
from bnext_jax.nn.kbit import CLASSIFIER_CLIP, CLIP, Quantizer

NORM_EPSILON = 1e-5
NORM_DECAY = 0.9  # of the running statistics; PyTorch calls this momentum 0.1
PRELU_SLOPE = 0.25


class Buffer(nnx.Variable):
    """Kept for the round trip with PyTorch, never trained and never decayed: unused PReLUs, the ablation's unused norm."""


class Temperature(nnx.Variable):
    """The temperature that a network's binary weights stand at: data, not a parameter, so that it never recompiles."""


def uniform(rngs, shape, fan_in):
    """PyTorch's default for weights and biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), float array of `shape`."""
    bound = fan_in**-0.5
    flat = jax.random.uniform(rngs.params(), (math.prod(shape),), minval=-bound, maxval=bound)  # compiles faster than in 4-D
    return flat.reshape(shape)


def accumulation_dtype(dtype):
    """The type for sums and statistics: float32, or float64 where the data are float64."""
    return jnp.promote_types(dtype, jnp.float32)


def average_pool(x, activation=lambda x: x):
    """Mean of activation(x) over 2x2 windows with stride 2: [N,H,W,C] -> [N,H/2,W/2,C]. Raises UserError where H or W is odd.

    activation: an elementwise function. Given here and not before, its map need not be written (benchmarks/tpu_step.py).
    """
    n, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise UserError(
            f"a unit with stride 2 meets a {height}x{width} map, which it cannot halve; use an input size that every"
            " stride divides evenly (224, 64 and 32 do)"
        )
    # mean() would keep float32 maps between the passes of a bfloat16 network (benchmarks/tpu_step.py); a sum accumulates in float32 anyway
    windows = activation(x.reshape(n, height // 2, 2, width // 2, 2, channels))
    return windows.sum((2, 4), dtype=x.dtype) / 4


class PReLU(nnx.Module):
    """y = x where x > 0, else slope_c * x, one slope per channel, 0.25 at first. kind=Buffer keeps it without training it."""

    def __init__(self, features, *, slope=PRELU_SLOPE, kind=nnx.Param):
        self.slope = kind(jnp.full((features,), slope), decay="rest")

    def __call__(self, x):
        """[..., C] -> [..., C], the type of x."""
        return jnp.where(x > 0, x, x * self.slope[...].astype(x.dtype))


class Conv(nnx.Module):
    """A real convolution with PyTorch's padding (or TensorFlow's) and initialisation.

    Args:
      inputs, features: channels. size: kernel side. stride: in pixels. padding: pixels on all sides (None: size // 2),
        or "SAME", TensorFlow's rule: ceil(side / stride) positions, the odd pixel below and on the right.
      groups: feature groups (= inputs for a depthwise convolution). bias: whether there is one.
      weight_bits: of the quantized kernel, one range per (input, output) pair; None = a float kernel. The input is never quantized.
    Attributes:
      edition_bits: of the kernel where the network runs as its quantized edition (SPEC section 5).
    """

    edition_bits = 8

    def __init__(self, inputs, features, size, stride=1, *, padding=None, groups=1, bias=False, weight_bits=None, rngs):
        self.stride, self.groups = stride, groups
        self.padding = size // 2 if padding is None else padding
        fan_in = size * size * inputs // groups
        self.kernel = nnx.Param(uniform(rngs, (size, size, inputs // groups, features), fan_in), decay="weights")
        self.bias = nnx.Param(uniform(rngs, (features,), fan_in), decay="rest") if bias else None
        self.quantizer = Quantizer(weight_bits, (0, 1)) if weight_bits else None

    def pads(self, x):
        """((top, bottom), (left, right)) in pixels for a map [N,H,W,C]."""
        if self.padding == "SAME":
            return tuple(lax.padtype_to_pads(x.shape[1:3], self.kernel.shape[:2], (self.stride, self.stride), "SAME"))
        return ((self.padding, self.padding),) * 2

    def __call__(self, x):
        """[N,H,W,inputs] -> [N,H',W',features], the type of x."""
        kernel = self.kernel[...] if self.quantizer is None else self.quantizer.kernel(self.kernel[...])
        y = lax.conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            self.pads(x),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Linear(nnx.Module):
    """y = x W + b with PyTorch's initialisation; W [inputs, features], b [features].

    decay: the weight-decay group of W; "weights" for a 1x1 convolution, "rest" for a classifier (see the module's text).
    bits: of quantized W and x (None = float). The classifier's quantizer clips at +-25, that of a 1x1 convolution at +-1000.
    edition_bits: see Conv; a gate's layers have 4.
    """

    def __init__(self, inputs, features, *, decay="rest", bits=None, edition_bits=8, rngs):
        self.edition_bits = edition_bits
        self.kernel = nnx.Param(uniform(rngs, (inputs, features), inputs), decay=decay)
        self.bias = nnx.Param(uniform(rngs, (features,), inputs), decay="rest")
        limit = CLASSIFIER_CLIP if decay == "rest" else CLIP
        self.quantizer = Quantizer(bits, (0,), limit=limit, unused_scale=decay == "rest") if bits else None

    def __call__(self, x):
        """[..., inputs] -> [..., features], the type of x."""
        kernel = self.kernel[...]
        if self.quantizer is not None:
            x, kernel = self.quantizer.input(x), self.quantizer.kernel(kernel)
        return jnp.matmul(x, kernel.astype(x.dtype)) + self.bias[...].astype(x.dtype)


class Gate(nnx.Module):
    """Squeeze-and-excitation on channel means: gate(m) = sigmoid(W2 relu(W1 m + b1) + b2), W1: C -> C/8, W2: C/8 -> C. bits: see Linear."""

    def __init__(self, features, *, bits=None, rngs):
        if features < 8:
            raise UserError(f"a gate needs at least 8 channels, got {features}; choose widths of 8 and more")
        self.reduce = Linear(features, features // 8, decay="weights", bits=bits, edition_bits=4, rngs=rngs)
        self.expand = Linear(features // 8, features, decay="weights", bits=bits, edition_bits=4, rngs=rngs)

    def __call__(self, mean):
        """Channel means [N,C] -> factors in (0, 1), [N,C]."""
        return jax.nn.sigmoid(self.expand(jax.nn.relu(self.reduce(mean))))


def channel_sums(x):
    """Sum and sum of squares over height and width, in at least float32: [N,H,W,C] -> ([N,C], [N,C])."""
    x = x.astype(accumulation_dtype(x.dtype))
    return x.sum((1, 2)), jnp.square(x).sum((1, 2))


def channel_means(x):
    """Means over height and width, in at least float32: [N,H,W,C] -> [N,C]."""
    return x.astype(accumulation_dtype(x.dtype)).mean((1, 2))


class BatchNorm(nnx.Module):
    """Batch norm as PyTorch's (unbiased running variance), from per-image sums, with groups of examples that share statistics.

    For a group of n = examples * positions values per channel: mean = sum/n, var = sum_sq/n - mean^2 (biased, for
    normalising); running = 0.9 running + 0.1 new, new being the mean over groups of mean and of var * n/(n-1).

    Attributes set through nnx.view:
      use_running_average: evaluation. batch_norm_group: examples that share statistics, None = the whole batch.
    """

    def __init__(self, features, *, epsilon=NORM_EPSILON, kind=nnx.Param):
        self.epsilon = epsilon
        self.scale = kind(jnp.ones((features,)), decay="rest")
        self.bias = kind(jnp.zeros((features,)), decay="rest")
        self.mean = nnx.BatchStat(jnp.zeros((features,)))
        self.var = nnx.BatchStat(jnp.ones((features,)))
        self.batches = nnx.BatchStat(jnp.zeros((), jnp.int32))  # PyTorch's num_batches_tracked
        self.use_running_average = False
        self.batch_norm_group = None

    def set_view(self, use_running_average=None, batch_norm_group=...):
        """Called by nnx.view with the attributes to change."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if batch_norm_group is not ...:
            self.batch_norm_group = batch_norm_group

    def affine(self, total, total_sq, positions):
        """Factor and offset so that x * a + b is the normalised x; updates the running statistics in training.

        Args:
          total, total_sq: [N,C], sums of x and of x*x over each image's positions.
          positions: number of positions (H*W) that those sums run over.
        Returns:
          a, b: [N,C] in training, [1,C] in evaluation.
        Raises:
          UserError: N is not divisible by the group.
        """
        scale, bias = self.scale[...].astype(total.dtype), self.bias[...].astype(total.dtype)
        if self.use_running_average:
            mean, var = self.mean[...].astype(total.dtype)[None], self.var[...].astype(total.dtype)[None]
        else:
            examples, channels = total.shape
            group = self.batch_norm_group or examples
            if examples % group:
                raise UserError(f"a batch of {examples} does not divide into batch-norm groups of {group}; change batch_norm_group")
            count = group * positions
            sums = total.reshape(-1, group, channels).sum(1), total_sq.reshape(-1, group, channels).sum(1)
            mean = sums[0] / count
            var = jnp.maximum(sums[1] / count - jnp.square(mean), 0)
            self._update(mean.mean(0), var.mean(0) * (count / max(count - 1, 1)))
            spread = (mean.shape[0], group, channels)  # broadcast and reshape: jnp.repeat would gather across devices
            mean = jnp.broadcast_to(mean[:, None], spread).reshape(examples, channels)
            var = jnp.broadcast_to(var[:, None], spread).reshape(examples, channels)
        a = scale * lax.rsqrt(var + self.epsilon)
        return a, bias - mean * a

    def _update(self, mean, var):
        for running, new in ((self.mean, mean), (self.var, var)):
            running[...] = NORM_DECAY * running[...] + (1 - NORM_DECAY) * lax.stop_gradient(new).astype(running.dtype)
        self.batches[...] = self.batches[...] + 1

    def with_means(self, x):
        """(the normalised x, its means over each image's positions): [N,H,W,C] -> ([N,H,W,C], [N,C]); the means follow from those of x."""
        total, total_sq = channel_sums(x)
        positions = x.shape[1] * x.shape[2]
        a, b = self.affine(total, total_sq, positions)
        y = (x.astype(a.dtype) * spatial(a, a.dtype) + spatial(b, b.dtype)).astype(x.dtype)
        return y, a * (total / positions) + b

    def __call__(self, x):
        """[N,H,W,C] -> [N,H,W,C], the type of x."""
        return self.with_means(x)[0]  # in evaluation the sums are dead code


def spatial(per_image, dtype):
    """[N,C] -> [N,1,1,C] in `dtype`, to be broadcast over a map."""
    return per_image.astype(dtype)[:, None, None, :]
