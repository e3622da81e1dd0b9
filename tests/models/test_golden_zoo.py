"""The eight networks and their blocks compute what the reference implementations compute, with gradients and statistics."""

import jax
import numpy as np
import pytest
from flax import nnx

from bnext_jax.io.torch.state_dict import from_state_dict
from tests.helpers import golden_blocks, golden_files, zoo_files, zoo_networks

pytestmark = pytest.mark.golden
FILES = [path for path in golden_files.files("zoo") if path.stem != "binarizers"]


def is_block(path):
    return "_block" in path.stem


@pytest.mark.parametrize("path", [path for path in FILES if not is_block(path)], ids=lambda path: path.stem)
def test_golden_logits_of_a_whole_network(path):
    arrays, meta = golden_files.read(path)
    model = from_state_dict(zoo_networks.network(arrays, meta), zoo_files.weights(arrays, meta))
    images = golden_blocks.normal(meta["input_seed"], (meta["batch"], 3, meta["resolution"], meta["resolution"]))
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    logits = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)
    bound = (1e-3 if meta["network"] == "pokebnn" else 1e-4) * arrays["logits"].std()
    assert np.abs(np.asarray(logits) - arrays["logits"]).max() <= bound


@pytest.mark.parametrize("path", [path for path in FILES if is_block(path)], ids=lambda path: path.stem)
def test_golden_outputs_gradients_and_statistics_of_a_block(path):
    arrays, meta = golden_files.read(path)
    block, prefix, call = zoo_networks.block(arrays, meta)
    from_state_dict(block, {name.removeprefix(prefix): value for name, value in zoo_files.weights(arrays, meta).items()})
    golden_blocks.compare(block, call, arrays, meta, prefix, 1e-3 if "pokebnn" in meta["block"] else 1e-4)
