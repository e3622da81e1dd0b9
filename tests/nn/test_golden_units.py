"""Outputs, gradients and running statistics of every unit equal the reference's."""

import jax.numpy as jnp
import pytest

from bnext_jax.io.torch.state_dict import from_state_dict
from tests.helpers import golden_blocks, golden_files
from tests.helpers.golden_units import build


@pytest.mark.parametrize("path", golden_files.files("units"), ids=lambda path: path.stem)
def test_golden_unit_outputs_gradients_and_statistics(path, lowering):
    arrays, meta = golden_files.read(path)
    module = from_state_dict(build(meta["unit"], arrays), golden_files.weights(arrays, meta, calibrated=False))
    temperature = jnp.float32(meta["temperature"])
    golden_blocks.compare(module, lambda unit, x: unit(x, temperature), arrays, meta)
