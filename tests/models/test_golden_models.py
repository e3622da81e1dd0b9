"""Logits of every whole network equal the reference's, in evaluation."""

import jax
import numpy as np
import pytest
from flax import nnx

from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.table import abstract_model
from tests.helpers import golden_files

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("path", golden_files.files("models"), ids=lambda path: path.stem)
def test_golden_logits(path, lowering):
    arrays, meta = golden_files.read(path)
    switches = {} if meta["size"] == "18" else {key: meta[key] for key in ("elm_attention", "info_recoupling")}
    name = "bnext18" if meta["size"] == "18" else f"bnext_{meta['size']}"
    model = abstract_model(name, meta["num_classes"], **switches)
    from_state_dict(model, golden_files.weights(arrays, meta))
    shape = (meta["batch"], 3, meta["resolution"], meta["resolution"])
    images = golden_files.nhwc(np.random.default_rng(meta["input_seed"]).standard_normal(shape, dtype=np.float32))
    graphdef, state = nnx.split(model)
    logits = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)
    bound = (1e-3 if meta["size"] == "large" else 1e-4) * arrays["logits"].std()
    assert np.abs(np.asarray(logits) - arrays["logits"]).max() <= bound
