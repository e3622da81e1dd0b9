"""Warns about what a file of weights does not tell, and what is assumed in its place."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from bnext_jax.data.datasets.imagenet import CLASSES
from bnext_jax.distill import roster
from bnext_jax.io.torch.torch_files import TorchFile
from bnext_jax.models.base import default_stride
from bnext_jax.models.efficientnet import SCALES
from bnext_jax.models.frame18 import FrameConfig
from bnext_jax.models.table import entry

log = logging.getLogger(__name__)


def warn(
    path: os.PathLike | str,
    file: TorchFile,
    name: str,
    classes: int,
    arguments: Mapping[str, Any],
    gate_bits: int | None,
    architecture: str | None,
) -> None:
    """Warns about what tensor names and shapes do not show. A file that describes its own network needs no warning.

    Args:
      path: the file.
      file: its content.
      name: the network's name.
      classes: its number of classes.
      arguments: its arguments for create_model, as far as the file tells them.
      gate_bits: what the user says of the gates, or None.
      architecture: the network's name by a file beside the weights, or None.
    """
    if file.described is not None:
        return
    if "gate_bits" in arguments and gate_bits is None:
        bits = arguments["gate_bits"]
        log.warning("%s does not say whether its gates have 4 or 8 bits; assuming %d (see convert --gate_bits)", path, bits)
    if name.startswith("meliusnet"):
        rules = arguments.get("variant", "bitorch")
        log.info("%s does not say how it pads, pools and shuffles; taking the published rules of %s", path, rules)
    if name == "reactnet_a" and classes != CLASSES:
        log.warning("%s does not say the stride of its stem; assuming %d", path, default_stride(classes))
    if name in ("reactnet18", "real_to_binary", "strong_baseline"):
        log.warning("%s does not say whether its weights are real, as in the first stages of a training; assuming binary ones", path)
    if name == "reactnet_a" and not arguments.get("binary_weights", True):
        log.warning("%s has the names of the first step of a training; assuming real weights", path)
    if name == "xnornet18":
        order = arguments.get("order", "conv_norm")
        log.warning("%s does not say whether its shortcuts are binary; assuming real ones, and units in the order %s", path, order)
    if issubclass(entry(name).config, FrameConfig) and classes != CLASSES and arguments.get("stem_stride") == 2:
        log.warning("%s does not say whether its stem has a max pool; assuming that it has one", path)
    if name in SCALES and architecture is None and not roster.published(name, path):
        log.warning(
            "timm's EfficientNets with and without tf_ in their tag have the same names and shapes, but pad differently;"
            " the checksum of %s is not that of a known file; assuming %s", path, name,
        )  # fmt: skip
