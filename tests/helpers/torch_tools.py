"""PyTorch files for tests: a narrow BNext with drawn weights, in the layout of published files."""

import argparse

import numpy as np
import torch
from flax import nnx

from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.models.table import create_model
from tests.helpers import golden_files

WIDTHS = (8, 8, 16, 16)  # three blocks: plain; ELM attention, widening; plain
EPOCH = 10
TEMPERATURE = 0.9**EPOCH


def drawn(temperature=TEMPERATURE, classes=10):
    """Returns {PyTorch name: array} of the narrow network, with drawn weights."""
    shapes = to_state_dict(create_model("bnext", classes, widths=WIDTHS, rngs=nnx.Rngs(0)))
    return {name: golden_files.draw(name, value.shape, 7, temperature) for name, value in shapes.items()}


def save_training(path, tensors, **more):
    """Saves a training checkpoint as a run on several GPUs writes it.

    Every name has the prefix "module.". The file also holds an optimizer, a history of numpy numbers and a command line.
    """
    content = {
        "epoch": EPOCH,
        "state_dict": {f"module.{name}": torch.from_numpy(np.array(value)) for name, value in tensors.items()},
        "optimizer": {"state": {0: {"step": 7, "exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "best_top1_acc": torch.tensor(50.5),
        "temp": TEMPERATURE,
        "alpha": 1.0,
        "train_loss": [np.float64(2.5), np.float32(1.5)],
        "valid_top1_acc": np.array([40.0, 50.5]),
        "args": argparse.Namespace(learning_rate=1e-3),
        **more,
    }
    torch.save(content, path)
    return path


def save_bare(path, tensors, **options):
    """Saves a state dict alone. options: of torch.save."""
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, path, **options)
    return path
