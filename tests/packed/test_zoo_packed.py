"""Each of the eight networks packs, and the packed form in XLA computes what the float network computes."""

import math

import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.load import load
from bnext_jax.io.save import described
from bnext_jax.nn.binary_conv import LatentWeight
from bnext_jax.packed import file
from bnext_jax.packed.pack import pack
from tests.helpers.zoo_small import SMALL, logits, varied

FORMS = [(name, {}) for name in SMALL if name != "meliusnet"] + [
    ("xnornet18", {"order": "norm_conv", "binary_shortcut": True}),
    ("meliusnet", {"variant": "larq"}),
    ("meliusnet", {"variant": "bitorch"}),
]


@pytest.mark.parametrize(("name", "more"), FORMS, ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())))
def test_a_packed_network_computes_the_logits_of_the_float_network(tmp_path, name, more):
    model = varied(name, **more)
    tensors, description = pack(model, without_run(model, described(model)))
    file.write(tmp_path / "a.bnext", tensors, description)
    expected = logits(model)
    for form in ("xla", "float"):
        found, metadata = load(tmp_path / "a.bnext", form=form)
        assert np.abs(logits(found) - expected).max() <= 2e-5 * expected.std(), form
        assert metadata["model"]["name"] == name
    latent = [variable for _, variable in nnx.to_flat_state(nnx.state(model, LatentWeight))]
    bits = sum(math.prod((*v.shape[:2], -(-v.shape[2] // 32), v.shape[3])) for v in latent)  # words of 32 input channels
    assert sum(array.size for key, array in tensors.items() if array.dtype == np.uint32 and key != file.PROGRAM) == bits


def test_a_pokebnn_whose_weights_are_still_real_is_not_packed():
    model = varied("pokebnn")
    model.quantized.set_value(np.asarray(False))
    with pytest.raises(UserError, match="not binary yet: its network binarizes them from epoch 2 on"):
        pack(model, without_run(model, described(model)))
