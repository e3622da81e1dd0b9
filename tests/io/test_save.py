"""`load` returns the network that `save` wrote. `described` reads its name, classes and arguments from its config."""

import jax
import numpy as np
import pytest
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.save import described, save
from bnext_jax.models.table import abstract_model, create_model

NETWORKS = [
    ("bnext_tiny", 1000, {}),
    ("bnext_large", 10, {}),
    ("bnext18", 100, {}),
    ("bnext", 7, {"widths": (8, 16), "gate_bits": 4}),
    ("bnext18", 10, {"stem_stride": 2}),
    ("efficientnet_b0", 1000, {}),
    ("tf_efficientnet_lite0", 10, {}),
    ("convnext", 3, {"widths": (8,), "depths": (1,), "patch": 4}),
]


@pytest.mark.parametrize(("name", "classes", "arguments"), NETWORKS)
def test_described_gives_the_name_classes_and_arguments_of_a_network(name, classes, arguments):
    told = described(abstract_model(name, classes, **arguments))
    assert (told["name"], told["num_classes"]) == (name, classes)
    assert abstract_model(told["name"], classes, **told["arguments"]).config == abstract_model(name, classes, **arguments).config


@pytest.mark.parametrize("file", ["run", "a.safetensors", "a.pth.tar"])
def test_load_returns_every_value_that_save_wrote(tmp_path, file):
    model = create_model("bnext", 10, widths=(8, 8, 16), rngs=nnx.Rngs(0))
    save(tmp_path / file, model)
    found, metadata = load(tmp_path / file)
    assert metadata["model"]["name"] == "bnext" and metadata["temperature"] == 1.0
    jax.tree.map(np.testing.assert_array_equal, nnx.as_pure(nnx.state(found)), nnx.as_pure(nnx.state(model)))
    with pytest.raises(UserError, match="exists; remove it or name another file"):
        save(tmp_path / file, model)


def test_save_refuses_a_module_that_no_command_can_read(tmp_path):
    with pytest.raises(UserError, match=r"Linear is no network of bnext_jax.MODELS"):
        save(tmp_path / "run", nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    assert not list(tmp_path.iterdir())
