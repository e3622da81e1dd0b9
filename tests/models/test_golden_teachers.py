"""Logits and pooled features of every teacher's network equal the reference's, in evaluation."""

import jax
import numpy as np
import pytest
from flax import nnx

from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.table import abstract_model
from tests.helpers import golden_files

# x the standard deviation. In ResNet-50, float32 and float64 of the reference differ by 1.3e-4.
TOLERANCES = {"resnet": {"logits": 5e-4, "features_mean": 1e-3}, "others": {"logits": 1e-4, "features_mean": 1e-4}}
pytestmark = pytest.mark.golden


@pytest.mark.parametrize("path", golden_files.files("teachers"), ids=lambda path: path.stem)
def test_golden_logits_and_features(path, monkeypatch):
    arrays, meta = golden_files.read(path)
    model = abstract_model(meta["timm_model"])
    from_state_dict(model, golden_files.weights(arrays, meta))
    shape = (meta["batch"], 3, meta["resolution"], meta["resolution"])
    images = golden_files.nhwc(np.random.default_rng(meta["input_seed"]).standard_normal(shape, dtype=np.float32))
    graphdef, state = nnx.split(model)

    def tapped(state, images):
        taps = []
        logits = nnx.merge(graphdef, state)(images, taps=taps)
        return {"logits": logits, "features_mean": taps[-1].mean((1, 2))}

    def outputs(state, images):
        kept, original = {}, type(model).features

        def features(self, images):  # keeps the feature map that the logits come from; a second pass would double the compile time
            kept["map"] = original(self, images)
            return kept["map"]

        monkeypatch.setattr(type(model), "features", features)
        logits = nnx.merge(graphdef, state)(images)
        return {"logits": logits, "features_mean": kept["map"].mean((1, 2))}

    for key, found in jax.jit(tapped if model.has_taps else outputs)(state, images).items():
        error = np.abs(np.asarray(found) - arrays[key]).max() / arrays[key].std()
        assert error <= TOLERANCES["resnet" if model.has_taps else "others"][key], key
