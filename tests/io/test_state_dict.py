"""PyTorch state dicts: a round trip changes nothing, and an error lists all tensors that do not fit."""

import numpy as np
import pytest

from bnext_jax.errors import UserError
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict
from bnext_jax.models.table import abstract_model
from tests.helpers import golden_files


def drawn(path):
    arrays, meta = golden_files.read(path)
    return golden_files.weights(arrays, meta), meta


@pytest.mark.parametrize("size", ["tiny_10c_32px", "tiny_10c_32px_no_elm_attention_no_infor_recoupling", "18_10c_32px"])
def test_a_round_trip_keeps_names_order_types_and_values(size):
    tensors, meta = drawn(golden_files.OWN / "models" / f"bnext_{size}.npz")
    name = "bnext18" if meta["size"] == "18" else f"bnext_{meta['size']}"
    switches = {} if meta["size"] == "18" else {key: meta[key] for key in ("elm_attention", "info_recoupling")}
    back = to_state_dict(from_state_dict(abstract_model(name, meta["num_classes"], **switches), tensors))
    assert list(back) == list(tensors)
    for key, value in tensors.items():
        assert back[key].dtype == value.dtype and back[key].shape == value.shape, key
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def state_dict():
    tensors, meta = drawn(golden_files.OWN / "training" / "trajectory_ce.npz")
    return tensors, abstract_model("bnext", meta["num_classes"], widths=tuple(meta["widths"]))


def test_missing_unknown_and_wrongly_shaped_tensors_are_all_listed():
    tensors, model = state_dict()
    del tensors["fc.bias"], tensors["feature.1.FFN_1.scale"]
    tensors["fc.extra"] = np.zeros(3)
    tensors["prelu.weight"] = np.zeros(5)
    with pytest.raises(UserError) as error:
        from_state_dict(model, tensors)
    for part in ("in 4 places", "missing fc.bias", "missing feature.1.FFN_1.scale", "unknown fc.extra", "prelu.weight has shape (5,)"):
        assert part in str(error.value)


def test_differing_temperatures_inside_one_file_are_refused():
    tensors, model = state_dict()
    tensors["feature.2.Attention.binary_conv.temperature"] = np.array([0.5], np.float32)
    with pytest.raises(UserError, match=r"temperatures differ: \[0.5, 1.0\]"):
        from_state_dict(model, tensors)


def test_the_network_gets_the_temperature_of_the_file():
    tensors, model = state_dict()
    tensors = {k: np.array([0.25], np.float32) if k.endswith("temperature") else v for k, v in tensors.items()}
    assert float(from_state_dict(model, tensors).temperature[...]) == 0.25


def test_missing_counters_of_batches_are_zero_and_change_nothing_else():
    """Old versions of PyTorch and tools that average weights leave them out."""
    tensors, model = state_dict()
    kept = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(tensors)
    back = to_state_dict(from_state_dict(model, kept))
    assert back.keys() == tensors.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, kept.get(name, 0), err_msg=name)


def test_integers_in_place_of_weights_are_refused():
    tensors, model = state_dict()
    tensors["fc.weight"] = tensors["fc.weight"].astype(np.int8)
    with pytest.raises(UserError, match=r"in 1 places: fc.weight has numbers of int8, the network needs floats"):
        from_state_dict(model, tensors)
