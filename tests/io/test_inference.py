"""A file that we write is the network that PyTorch computes: strict loading, and the same logits as ours and the authors'."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from bnext_jax.io.save import save
from bnext_jax.io.torch import inference
from bnext_jax.io.torch.state_dict import from_state_dict
from bnext_jax.models.table import create_model
from tests.helpers import golden_files
from tests.helpers.torch_tools import WIDTHS, drawn


@pytest.mark.parametrize(("temperature", "stem_stride"), [(0.5, 1), (1e-9, 2)])
def test_pytorch_computes_our_logits_from_the_file_that_we_write(tmp_path, temperature, stem_stride):
    model = from_state_dict(create_model("bnext", 10, widths=WIDTHS, stem_stride=stem_stride, rngs=nnx.Rngs(0)), drawn(temperature))
    save(tmp_path / "a.pth.tar", model)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3), dtype=np.float32)
    ours = np.asarray(model(jnp.asarray(images)))
    with torch.no_grad():
        theirs = inference.from_file(tmp_path / "a.pth.tar")(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(ours - theirs).max() <= 1e-4 * ours.std()


def test_the_pytorch_network_gives_the_logits_of_the_authors():
    arrays, meta = golden_files.read(golden_files.OWN / "models/bnext_tiny_10c_32px.npz")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in golden_files.weights(arrays, meta).items()}
    widths = (32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2)
    model = inference.BNext(widths, 10, 1)
    model.load_state_dict(tensors, strict=True)
    shape = (meta["batch"], 3, meta["resolution"], meta["resolution"])
    images = np.random.default_rng(meta["input_seed"]).standard_normal(shape, dtype=np.float32)
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(images)).numpy()
    assert np.abs(found - arrays["logits"]).max() <= 1e-4 * arrays["logits"].std()


def test_the_pytorch_bnext18_gives_the_logits_of_the_authors():
    arrays, meta = golden_files.read(golden_files.OWN / "models/bnext_18_10c_32px.npz")
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in golden_files.weights(arrays, meta).items()}
    model = inference.from_tensors(tensors)
    shape = (meta["batch"], 3, meta["resolution"], meta["resolution"])
    images = np.random.default_rng(meta["input_seed"]).standard_normal(shape, dtype=np.float32)
    # BNext-18 has exact signs below 1e-5; the file's temperature is above or below both limits
    assert not 1e-7 <= meta["temperature"] < 1e-5
    with torch.no_grad():
        found = model(torch.from_numpy(images)).numpy()
    assert np.abs(found - arrays["logits"]).max() <= 1e-4 * arrays["logits"].std()
