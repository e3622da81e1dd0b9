"""AQT's names for PokeBNN: networks are recognised, written and read again; what does not fit is named."""

import json

import numpy as np
import pytest
from flax.serialization import to_bytes
from flax.traverse_util import unflatten_dict

from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.names.recognise import recognise
from bnext_jax.io.save import save
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from bnext_jax.models.table import abstract_model
from tests.helpers import golden_files, poke

FILES = [path for path in golden_files.files("zoo") if path.stem.startswith("pokebnn") and "_block" not in path.stem]
ONE = {"multiplier": 0.25, "depths": (1,)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_references_networks_are_recognised_and_have_its_names(path):
    arrays, meta = golden_files.read(path)
    shapes = {str(name): tuple(json.loads(str(shape))) for name, shape in zip(arrays["names"], arrays["shapes"], strict=True)}
    shapes |= {name[4:]: array.shape for name, array in arrays.items() if name.startswith("set:")}
    name, classes, arguments = recognise({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
    assert (name, classes) == ("pokebnn", meta["num_classes"])
    stem = {} if classes == 1000 else {"stem_stride": 4}
    assert arguments == ({"multiplier": meta["filter_multiplier"]} if meta["filter_multiplier"] != 1 else {}) | stem
    ours = poke.tensors(abstract_model(name, classes, **arguments))
    assert {name: array.shape for name, array in ours.items()} == shapes


@pytest.mark.parametrize("arguments", [
    {"multiplier": 0.75, "depths": (1,)}, {"depths": (1, 2), "stem_stride": 2}, {"depths": (1, 1), "widths": (64, 192)},
    {"multiplier": 0.125, "depths": (2, 1, 1), "stem_stride": 4},
])  # fmt: skip
def test_sizes_are_recognised(arguments):
    assert recognise(poke.tensors(abstract_model("pokebnn", 10, **arguments))) == ("pokebnn", 10, arguments)


def test_a_network_that_is_written_and_read_again_is_the_same(tmp_path):
    drawn = poke.tensors(abstract_model("pokebnn", 10, **ONE))
    model = from_state_dict(abstract_model("pokebnn", 10, **ONE), drawn)
    save(tmp_path / "poke.safetensors", model)
    again, metadata = load(tmp_path / "poke.safetensors")
    assert metadata["model"]["name"] == "pokebnn" and bool(again.bounded[...]) and bool(again.quantized[...])
    assert not again.stem.quantizer.maximum[...].any() and not again.stem_norm.batches[...].any()
    written = to_state_dict(again)
    assert written.keys() == drawn.keys()
    for name, array in drawn.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)
    assert (written["get_bounds/conv-resblock0-2/GetBounds_0/bounds"] == np.full((1, 1, 1, 16), 3)).all()


def test_statistics_of_inputs_are_left_out_with_a_warning(tmp_path, caplog):
    drawn = poke.tensors(abstract_model("pokebnn", 10, **ONE), bounds=-1)
    own = "get_bounds/init_conv/GetBounds_0/stats"
    drawn |= {f"{own}/mean_batch_maximum": np.ones((1, 1, 1, 3), np.float32), f"{own}/n": np.asarray(3, np.int32)}
    (tmp_path / "tree.msgpack").write_bytes(to_bytes(unflatten_dict(drawn, sep="/")))
    model, _ = load(tmp_path / "tree.msgpack")
    assert (model.stem.quantizer.bounds[...] == -1).all()
    assert "has statistics of inputs (.../stats); they are not read" in caplog.text


def test_bounds_of_binary_inputs_that_the_network_does_not_know_are_refused():
    drawn = poke.tensors(abstract_model("pokebnn", 10, **ONE))
    drawn["get_bounds/conv-resblock0-2/GetBounds_0/bounds"] = np.full((1, 1, 1, 16), -1, np.float32)
    with pytest.raises(UserError, match="get_bounds/conv-resblock0-2/GetBounds_0/bounds is not 3 everywhere"):
        from_state_dict(abstract_model("pokebnn", 10, **ONE), drawn)


def test_a_tree_without_the_tensor_that_tells_the_widths_is_refused():
    with pytest.raises(UserError, match="looks like PokeBNN but lacks 'params/conv-resblock0-2/kernel'"):
        recognise({"params/init_conv/kernel": np.zeros((4, 4, 3, 32), np.float32)})
