"""The engine in C computes each unit's output as the reference does, from the reference's own input.

An image has three channels, and the input of a unit has more. So the stem of the test's network copies pixels: a window of 3x3 pixels
becomes one position with 27 channels, of which the first C are used.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.table import create_model
from bnext_jax.nn.batch_norm import BatchNorm
from bnext_jax.nn.layers import Conv
from bnext_jax.packed import file
from bnext_jax.packed.engine import Engine
from bnext_jax.packed.pack import pack
from tests.helpers import golden_files
from tests.helpers.golden_units import build

WINDOW = 3  # pixels
HARD = [path for path in golden_files.files("units") if "_soft" not in path.stem]


def copying(channels):
    """A convolution and a batch norm that copy the first `channels` numbers of each window, and change nothing."""
    conv, norm = Conv(3, channels, WINDOW, WINDOW, padding=0, rngs=nnx.Rngs(0)), BatchNorm(channels)
    numbers = WINDOW * WINDOW * 3
    conv.kernel[...] = jnp.eye(numbers, channels).reshape(conv.kernel.shape)
    norm.var[...] = jnp.full((channels,), 1 - norm.epsilon)
    return conv, norm


def windows(x):
    """Images [N, 3H, 3W, 3] whose windows hold x [N,H,W,C]."""
    n, height, width, channels = x.shape
    padded = np.zeros((n, height, width, WINDOW * WINDOW * 3), np.float32)
    padded[..., :channels] = x
    split = padded.reshape(n, height, width, WINDOW, WINDOW, 3).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(n, height * WINDOW, width * WINDOW, 3)


def network_of(unit, channels, outputs):
    """A network that holds one unit or block of the reference, and the number of the operation after which its output stands."""
    if hasattr(unit, "units1x1") or type(unit).__name__ in ("ElmAttention", "BinaryFeedForward"):
        model = create_model("bnext", 2, rngs=nnx.Rngs(0), widths=(channels, outputs))
        model.stem.conv, model.stem.norm = copying(channels)
        if hasattr(unit, "units1x1"):
            model.blocks = nnx.List([unit])
            return model, 1 + len(unit.units1x1)
        model.blocks[0].unit3x3 = unit
        return model, 1
    model = create_model("bnext18", 2, rngs=nnx.Rngs(0), widths=(outputs,), stem_stride=1)
    model.conv, model.norm = copying(channels)
    model.stages[0][0].attention = unit
    return model, 1


@pytest.mark.golden
@pytest.mark.parametrize("kernel", [None, "c"])
@pytest.mark.parametrize("path", HARD, ids=lambda path: path.stem)
def test_golden_unit_outputs_of_the_engine(tmp_path, path, kernel):
    arrays, meta = golden_files.read(path)
    unit = from_state_dict(build(meta["unit"], arrays), golden_files.weights(arrays, meta, calibrated=False))
    x = golden_files.nhwc(np.random.default_rng(meta["input_seed"]).standard_normal(meta["input_shape_nchw"], dtype=np.float32))
    model, operation = network_of(unit, x.shape[-1], arrays["eval"].shape[1])
    model.temperature[...] = jnp.zeros(())
    described = {"name": "bnext", "num_classes": 2, "arguments": {}}
    file.write(tmp_path / "unit.bnext", *pack(model, without_run(model, described)))
    expected = golden_files.nhwc(arrays["eval"])
    bound = 1e-4 * max(np.abs(expected).max(), 0.1)
    engine = Engine(tmp_path / "unit.bnext", threads=1, kernel=kernel)
    for image, output in zip(windows(x), expected, strict=True):
        found = engine.map(image, operation).reshape(output.shape)
        assert np.abs(found - output).max() <= bound
