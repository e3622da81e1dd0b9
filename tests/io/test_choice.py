"""Which weights of a PyTorch file are taken: under any entries, under any prefix, and out of several."""

import collections
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bnext_jax.errors import UserError
from bnext_jax.io.torch import torch_files

# The beginnings of the names of each known network
NETWORKS = {
    "BNext": ("feature.0.conv1.weight", "fc.weight"),
    "BNext-18": ("layer0.0.Attention.scale", "conv1.weight"),
    "EfficientNet": ("conv_stem.weight", "blocks.0.0.conv_dw.weight"),
    "Lite0": ("_conv_stem.weight", "_blocks.0._bn1.bias"),
    "ConvNeXt": ("stages.0.blocks.0.gamma", "stem.0.weight"),
}
PREFIXES = [
    "",
    "module.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "model.",
    "student.net.",
    "network.module.backbone.",
    "my_net.v1.0.",
    "x.encoder.",
]
WRAPPERS = ["state_dict", "model", "model_state_dict", "net", "network", "module", "params", "weights", "state_dict_ema", "mine"]


def state(number, prefix="", network="BNext"):
    """A state dict whose tensors hold one number, with a prefix before each name."""
    return {f"{prefix}{name}": torch.full((2,), float(number)) for name in NETWORKS[network]}


def read(path, content, weights=None):
    """Saves the content; returns (the names that are read, the one number that they hold, the file)."""
    torch.save(content, path)
    file = torch_files.read(path, weights)
    (number,) = {float(number) for array in file.tensors.values() for number in array}
    return tuple(file.tensors), number, file


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("network", NETWORKS)
def test_any_prefix_that_all_names_share_is_cut_and_told(tmp_path, caplog, network, prefix):
    caplog.set_level("INFO")
    assert read(tmp_path / "a.pth", state(3, prefix, network))[:2] == (NETWORKS[network], 3)
    assert (f"begin with {prefix}, which is left out here" in caplog.text) == bool(prefix)
    save_file(state(4, prefix, network), tmp_path / "a.safetensors")
    found = torch_files.read(tmp_path / "a.safetensors").tensors
    assert found.keys() == set(NETWORKS[network]) and found[NETWORKS[network][0]].tolist() == [4, 4]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_state_dict_is_found_under_any_entries_with_the_facts_around_it(tmp_path, wrapper):
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    around = {"epoch": 7, "temp": torch.tensor(0.25), "optimizer": optimizer, "rng": torch.ones(9)}
    names, number, file = read(tmp_path / "a.pth", {wrapper: collections.OrderedDict(state(3, "module.")), **around})
    assert (names, number, file.epoch, file.temperature) == (NETWORKS["BNext"], 3, 7, 0.25)
    for nested in ({"model": {wrapper: state(5), "epoch": 9}, **around}, {"a": [{"b": {wrapper: state(5)}, "epoch": 9}], **around}):
        names, number, file = read(tmp_path / "a.pth", nested)
        assert (names, number, file.epoch, file.temperature) == (NETWORKS["BNext"], 5, 9, 0.25)
    flat = {**state(6), "epoch": torch.tensor(4), "lr": 0.1}
    del flat["epoch"]
    names, number, file = read(tmp_path / "a.pth", {**flat, "epoch": 4})
    assert (names, number, file.epoch) == (NETWORKS["BNext"], 6, 4)


def test_tensors_beside_the_network_are_left_out_and_named(tmp_path, caplog):
    beside = {"criterion.weight": torch.ones(3), "metrics.total": torch.ones(1), **{f"head.{i}": torch.ones(1) for i in range(9)}}
    assert read(tmp_path / "a.ckpt", {"state_dict": {**state(3, "model."), **beside}, "epoch": 2})[:2] == (NETWORKS["BNext"], 3)
    assert "left out tensors that are not of the network: criterion.weight, metrics.total, head.0," in caplog.text
    assert "head.3 and 5 more" in caplog.text


def test_an_optimizer_with_the_names_of_the_weights_is_not_taken_for_a_network(tmp_path):
    kept = {"state": {"exp_avg": state(1), "feature.0.conv1.weight": {"exp_avg": torch.ones(2)}}}
    assert read(tmp_path / "a.pth", {"model": state(3), "optimizer": kept, "optim_state": kept})[:2] == (NETWORKS["BNext"], 3)


# How tools write averaged weights (1) beside the raw ones (2)
AVERAGED = {
    "timm": {"epoch": 3, "arch": "x", "state_dict": state(2), "state_dict_ema": state(1), "version": 2},
    "torchvision": {"model": state(2), "model_ema": {"n_averaged": torch.tensor(7), **state(1, "module.")}, "epoch": 3},
    "PyTorch": {"model": state(2), "averaging": {"n_averaged": torch.tensor(7), **state(1, "module.")}},
    "Lightning": {"state_dict": state(1, "model."), "current_model_state": state(2, "model."), "averaging_state": {}},
    "ema_pytorch": {**state(2, "online_model."), **state(1, "ema_model."), "initted": torch.tensor(True), "step": torch.tensor(3)},
    "in one state dict": {"state_dict": {**state(2, "net."), **state(1, "net_ema.module.")}},
    "an entry of its own": {"net": {"params": state(2)}, "ema": {"decay": 0.99, "module": state(1)}},
    "a shadow": {"model": state(2), "ema": {"shadow": state(1)}},
}


@pytest.mark.parametrize("tool", AVERAGED)
def test_averaged_weights_are_taken_before_raw_ones_and_a_flag_takes_the_others(tmp_path, caplog, tool):
    assert read(tmp_path / "a.pth", AVERAGED[tool])[1] == 1
    assert re.search("holds the weights of several networks: .*[(]averaged[)].*; took .*; --weights=NAME takes others", caplog.text)
    assert read(tmp_path / "a.pth", AVERAGED[tool], "ema")[1] == 1
    assert read(tmp_path / "a.pth", AVERAGED[tool], "raw")[:2] == (NETWORKS["BNext"], 2)


def test_several_networks_are_refused_by_name_and_each_can_be_chosen(tmp_path):
    content = {
        "state_dict": {**state(1, "student."), **state(2, "teacher.", "EfficientNet"), **state(3)},
        "ema": state(4),
        "best": state(5),
    }
    labels = "state_dict.student, state_dict.teacher, state_dict, ema (averaged), best"
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.ckpt", content)
    assert (
        str(error.value)
        == f"{tmp_path / 'a.ckpt'} holds the weights of several networks: {labels}; choose one with --weights=NAME (of convert)"
    )
    for name, number in {"student": 1, "state_dict.student": 1, "teacher": 2, "best": 5, "ema": 4}.items():
        assert read(tmp_path / "a.ckpt", content, name)[1] == number
    with pytest.raises(UserError, match="holds the weights of several networks"):
        read(tmp_path / "a.ckpt", content, "raw")
    with pytest.raises(UserError, match=r"--weights is 'studnet', but \S+ holds: state_dict.student, state_dict.teacher"):
        read(tmp_path / "a.ckpt", content, "studnet")
    assert read(tmp_path / "a.ckpt", {**state(1, "student."), **state(3)}, "top")[:2] == (NETWORKS["BNext"], 3)
    with pytest.raises(UserError, match=r"--weights is 'ema', but \S+ holds: model$"):
        read(tmp_path / "a.ckpt", {"model": state(1)}, "ema")
    assert read(tmp_path / "a.ckpt", {"model": state(1)}, "raw")[1] == 1


def test_one_state_dict_under_two_names_is_one(tmp_path):
    same = state(3)
    assert read(tmp_path / "a.pth", {"model": same, "state_dict": same})[1] == 3


def test_numbers_of_many_digits_change_nothing(tmp_path):
    """Python refuses to write a number of more than 4300 digits as text."""
    many = 10**5000
    for content in ({"model": state(3), many: [1], "epoch": many}, {many: {"model": state(3)}, "epoch": -1}):
        names, number, file = read(tmp_path / "a.pth", content)
        assert (names, number, file.epoch) == (NETWORKS["BNext"], 3, None)
    torch.save({many: torch.nn.PReLU()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds no tensors .it has objects: int of torch.nn"):
        torch_files.read(tmp_path / "a.pth")


def test_names_of_an_unknown_network_are_kept(tmp_path):
    torch.save(
        {"model": {"module.encoder.0.conv1.weight": torch.ones(2), "module.fc.bias": torch.ones(2)}, "n": torch.ones(1)}, tmp_path / "a.pth"
    )
    np.testing.assert_array_equal(torch_files.read(tmp_path / "a.pth").tensors["module.encoder.0.conv1.weight"], [1, 1])
