"""Logits of packed networks equal the reference's, after a way through a file.

Most reference networks have a few latent weights that are exactly 0, because their weights are random numbers. A bit cannot be 0. Each
network here has more than 10 layers of signs, so one such weight may change the logits visibly. In these networks the test makes the zeros
positive, and compares with the float network, which tests/models compares with the reference.
"""

import numpy as np
import pytest

from bnext_jax.io.checkpoint import without_run
from bnext_jax.io.save import described
from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.table import abstract_model
from bnext_jax.packed import file
from bnext_jax.packed.engine import Engine
from bnext_jax.packed.pack import pack
from bnext_jax.packed.unpack import restored, simulated
from tests.helpers import golden_files
from tests.helpers.exact_networks import logits

pytestmark = pytest.mark.golden

# Bounds of the largest difference, as parts of the standard deviation of the logits; 1e-4 for the others.
BOUNDS = {
    "bnext_large_1000c_64px": 1e-3,
    "bnext_quant_tiny_1000c_64px_se4": 5e-3,
    "bnext_tiny_10c_32px_no_elm_attention_no_infor_recoupling": 3e-4,  # with its zero at +1, rounding decides the sign of one value
}


def binary_files():
    """The files of networks with exactly binary weights."""
    paths = [*golden_files.files("models"), *(path for path in golden_files.files("quantized") if path.stem.startswith("bnext"))]
    return [path for path in paths if not path.exists() or golden_files.read(path)[1]["temperature"] < 1e-7]


@pytest.mark.parametrize("path", binary_files(), ids=lambda path: path.stem)
def test_golden_logits_of_packed_networks(tmp_path, path):
    arrays, meta = golden_files.read(path)
    name = "bnext18" if meta["size"] == "18" else f"bnext_{meta['size']}"
    arguments = {key: meta[key] for key in ("elm_attention", "info_recoupling") if key in meta and name != "bnext18"}
    if "se_bits" in meta:
        arguments = {"gate_bits": meta["se_bits"], "stem_bits": meta["stem_bits"], "classifier_bits": meta["fc_bits"]}
    weights = golden_files.weights(arrays, meta)
    zeros = sum(int((array == 0).sum()) for key, array in weights.items() if key.endswith("binary_conv.weight"))
    for key, array in weights.items():
        if key.endswith("binary_conv.weight"):
            weights[key] = np.where(array == 0, np.float32(1), array)
    model = abstract_model(name, meta["num_classes"], **arguments)
    from_state_dict(model, weights)
    shape = (meta["batch"], 3, meta["resolution"], meta["resolution"])
    images = golden_files.nhwc(np.random.default_rng(meta["input_seed"]).standard_normal(shape, dtype=np.float32))
    expected = logits(model, images) if zeros else arrays["logits"]
    file.write(tmp_path / "net.bnext", *pack(model, without_run(model, described(model))))
    content = file.read(tmp_path / "net.bnext")
    bound = BOUNDS.get(path.stem, 1e-4) * arrays["logits"].std()
    for build in (restored, simulated) if meta["num_classes"] == 10 or "se_bits" in meta else (restored,):
        found = logits(build(*content), images)
        assert np.abs(found - expected).max() <= bound, build.__name__
    for kernel in (None, "c"):
        found = Engine(tmp_path / "net.bnext", kernel=kernel)(images)
        assert np.abs(found - expected).max() <= bound, f"engine, kernel {kernel}"
