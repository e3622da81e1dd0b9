"""Every network by name."""

import dataclasses

import jax
from flax import nnx

from bnext_jax.errors import UserError, nearest
from bnext_jax.models.base import NetworkConfig
from bnext_jax.models.bnext import WIDTHS, BNext, BNextConfig
from bnext_jax.models.bnext18 import BNext18, BNext18Config
from bnext_jax.models.convnext import SIZES, ConvNeXt, ConvNeXtConfig
from bnext_jax.models.efficientnet import SCALES, EfficientNet, EfficientNetConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """One name of the table: the network's class, the class of its config, the config's arguments that the name stands for."""

    network: type[nnx.Module]
    config: type[NetworkConfig]
    arguments: dict


MODELS = {
    **{name: Entry(BNext, BNextConfig, {"widths": widths}) for name, widths in WIDTHS.items()},
    "bnext": Entry(BNext, BNextConfig, {}),  # widths=(...) of your own
    "bnext18": Entry(BNext18, BNext18Config, {}),
    **{name: Entry(EfficientNet, EfficientNetConfig, scale) for name, scale in SCALES.items()},
    "efficientnet": Entry(EfficientNet, EfficientNetConfig, {}),  # stages=(...), stem_width, head_width of your own
    **{name: Entry(ConvNeXt, ConvNeXtConfig, size) for name, size in SIZES.items()},
    "convnext": Entry(ConvNeXt, ConvNeXtConfig, {}),  # widths=(...), depths=(...) of your own
}


def entry(name):
    """The Entry of a name. Raises UserError for a name that is not in the table."""
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}{nearest(name, MODELS)}; one of: {', '.join(MODELS)}")
    return MODELS[name]


def model_config(name, num_classes=1000, **arguments):
    """The config of a network, complete.

    Args:
      name: a key of MODELS.
      num_classes: outputs of the classifier.
      **arguments: fields of the network's config, e.g. elm_attention=False, stem_stride=1.
    Returns:
      A frozen NetworkConfig.
    Raises:
      UserError: an unknown name, an argument that this network does not take or needs and lacks, a value that makes no network.
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


def create_model(name, num_classes=1000, *, rngs, **arguments):
    """A network with fresh parameters, as an evaluation view (running statistics).

    Args:
      name: a key of MODELS: bnext_tiny, bnext_small, bnext_middle, bnext_large, bnext18; "bnext" with widths=(...); the teachers
        efficientnet_b0, efficientnet_b2, efficientnet_b4, tf_efficientnet_lite0, convnext_tiny, and both families by arguments.
      num_classes: outputs of the classifier.
      rngs: nnx.Rngs with a "params" stream or a default seed.
      **arguments: fields of the network's config, see model_config.
    Returns:
      An nnx.Module: images [N,H,W,3], normalised -> logits [N,num_classes] in float32.
    Raises:
      UserError: as model_config.
    """
    config = model_config(name, num_classes, **arguments)
    model = MODELS[name].network(config, num_classes, rngs=rngs)
    return nnx.view(model, use_running_average=True, raise_if_not_found=False)


def abstract_model(name, num_classes=1000, **arguments):
    """The same network with shapes in place of arrays: nothing is computed. Arguments and errors as create_model's."""
    return nnx.eval_shape(lambda: create_model(name, num_classes, rngs=nnx.Rngs(jax.random.key(0)), **arguments))
