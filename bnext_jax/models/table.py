"""The table of all networks by name."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from bnext_jax.errors import UserError, nearest
from bnext_jax.models.base import NetworkConfig, TableModel
from bnext_jax.models.birealnet import BiRealNet, BiRealNetConfig
from bnext_jax.models.bnext import WIDTHS, BNext, BNextConfig
from bnext_jax.models.bnext18 import BNext18, BNext18Config
from bnext_jax.models.bnn import Bnn, BnnConfig
from bnext_jax.models.convnext import SIZES, ConvNeXt, ConvNeXtConfig
from bnext_jax.models.efficientnet import SCALES, EfficientNet, EfficientNetConfig
from bnext_jax.models.meliusnet import SIZES as MELIUSNETS
from bnext_jax.models.meliusnet import MeliusNet, MeliusNetConfig
from bnext_jax.models.pokebnn import PokeBNN, PokeBnnConfig
from bnext_jax.models.reactnet import ReActNet18, ReActNet18Config, ReActNetA, ReActNetAConfig
from bnext_jax.models.real_to_binary import RealToBinary, RealToBinaryConfig, StrongBaseline, StrongBaselineConfig
from bnext_jax.models.resnet import SIZES as RESNETS
from bnext_jax.models.resnet import ResNet, ResNetConfig
from bnext_jax.models.xnornet import XnorNet, XnorNetConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of the table.

    Attributes:
      network: class of the network, called with (config, num_classes, rngs=rngs).
      config: class of the network's config.
      arguments: fields of the config that the name sets.
    """

    network: Callable[..., TableModel]
    config: type[NetworkConfig]
    arguments: dict


MODELS = {
    **{name: Entry(BNext, BNextConfig, {"widths": widths}) for name, widths in WIDTHS.items()},
    "bnext": Entry(BNext, BNextConfig, {}),  # needs widths=(...)
    "bnext18": Entry(BNext18, BNext18Config, {}),
    "bnn18": Entry(Bnn, BnnConfig, {}),
    "xnornet18": Entry(XnorNet, XnorNetConfig, {}),
    "birealnet18": Entry(BiRealNet, BiRealNetConfig, {}),
    "real_to_binary": Entry(RealToBinary, RealToBinaryConfig, {}),
    "strong_baseline": Entry(StrongBaseline, StrongBaselineConfig, {}),
    "reactnet18": Entry(ReActNet18, ReActNet18Config, {}),
    "reactnet_a": Entry(ReActNetA, ReActNetAConfig, {}),
    **{name: Entry(MeliusNet, MeliusNetConfig, size) for name, size in MELIUSNETS.items()},
    "meliusnet": Entry(MeliusNet, MeliusNetConfig, {}),  # needs blocks=(...), transitions=(...)
    **{name: Entry(EfficientNet, EfficientNetConfig, scale) for name, scale in SCALES.items()},
    "efficientnet": Entry(EfficientNet, EfficientNetConfig, {}),  # takes stages=(...), stem_width, head_width
    **{name: Entry(ConvNeXt, ConvNeXtConfig, size) for name, size in SIZES.items()},
    "convnext": Entry(ConvNeXt, ConvNeXtConfig, {}),  # takes widths=(...), depths=(...)
    **{name: Entry(ResNet, ResNetConfig, size) for name, size in RESNETS.items()},
    "resnet": Entry(ResNet, ResNetConfig, {}),  # takes depths=(...), widths=(...), bottleneck=...
    "pokebnn": Entry(PokeBNN, PokeBnnConfig, {}),  # takes multiplier=..., depths=(...), widths=(...)
}


def entry(name: str) -> Entry:
    """The Entry of a name. Raises UserError for a name that is not in the table."""
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}{nearest(name, MODELS)}; one of: {', '.join(MODELS)}")
    return MODELS[name]


def takes_temperature(name: str) -> bool:
    """Whether the network of a name has a temperature, see TableModel. False for a name that is not in the table."""
    return name in MODELS and MODELS[name].network.takes_temperature  # type: ignore[attr-defined]  # a class


def model_config(name: str, num_classes: int = 1000, **arguments: Any) -> NetworkConfig:
    """Makes the complete config of a network.

    Args:
      name: a key of MODELS.
      num_classes: outputs of the classifier.
      **arguments: fields of the network's config, for example elm_attention=False or stem_stride=1.
    Returns:
      A frozen NetworkConfig.
    Raises:
      UserError: an unknown name, an argument that the network does not take, a missing argument, a value that does not make a network.
    """
    made = entry(name)
    known = {field.name: field for field in dataclasses.fields(made.config)}
    given = {**made.arguments, **arguments}
    for argument in given.keys() - known.keys():
        raise UserError(f"model {name!r} takes no argument {argument!r}; it takes: {', '.join(known)}")
    missing = [key for key, field in known.items() if field.default is dataclasses.MISSING and key not in given]
    if missing:
        raise UserError(f"model {name!r} needs {', '.join(missing)}")
    return made.config(**given).resolved(num_classes)


def create_model(name: str, num_classes: int = 1000, *, rngs: nnx.Rngs, **arguments: Any) -> TableModel:
    """Creates a network with new parameters, as an evaluation view (it uses running statistics).

    Example:
      >>> model = create_model("bnext_tiny", num_classes=10, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((1, 32, 32, 3))).shape
      (1, 10)

    Args:
      name: a key of MODELS. BNext: bnext_tiny, bnext_small, bnext_middle, bnext_large, bnext18, or "bnext" with widths=(...). Its
          ancestors: bnn18, xnornet18, birealnet18, real_to_binary, strong_baseline, reactnet18, reactnet_a, meliusnet22, 23, 29, 42, 59,
          meliusnet_a, _b, _c, or "meliusnet" with blocks=(...) and transitions=(...), pokebnn with multiplier=... Teachers:
          efficientnet_b0, efficientnet_b2, efficientnet_b4, tf_efficientnet_lite0, convnext_tiny, resnet18, resnet34, resnet50, or
          "efficientnet", "convnext" and "resnet" with arguments.
      num_classes: outputs of the classifier.
      rngs: nnx.Rngs with a "params" stream or a default seed.
      **arguments: fields of the network's config, see model_config.
    Returns:
      An nnx.Module. It maps normalized images [N,H,W,3] to logits [N,num_classes] in float32.
    Raises:
      UserError: see model_config.
    """
    config = model_config(name, num_classes, **arguments)
    model = MODELS[name].network(config, num_classes, rngs=rngs)
    return nnx.view(model, use_running_average=True, raise_if_not_found=False)


def abstract_model(name: str, num_classes: int = 1000, **arguments: Any) -> TableModel:
    """Creates a network with shapes in place of arrays. It computes nothing. See create_model for arguments and errors."""
    key = jax.random.key(0)  # for all draws: nnx.Rngs would count them, and in a trace that takes most of the time
    rngs: Any = types.SimpleNamespace(params=lambda: key)
    return nnx.eval_shape(lambda: create_model(name, num_classes, rngs=rngs, **arguments))
