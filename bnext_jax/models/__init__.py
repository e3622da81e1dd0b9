"""Every network by name."""

import jax
from flax import nnx

from bnext_jax.errors import UserError
from bnext_jax.models.bnext import WIDTHS, BNext
from bnext_jax.models.bnext18 import BNext18
from bnext_jax.models.convnext import SIZES, ConvNeXt
from bnext_jax.models.efficientnet import SCALES, EfficientNet

__all__ = ["MODELS", "BNext", "BNext18", "ConvNeXt", "EfficientNet", "create_model"]

# name -> (class, arguments that the name stands for)
MODELS = {
    **{name: (BNext, {"widths": widths}) for name, widths in WIDTHS.items()},
    "bnext": (BNext, {}),  # widths=(...) of your own
    "bnext18": (BNext18, {}),
    **{name: (EfficientNet, scale) for name, scale in SCALES.items()},
    "efficientnet": (EfficientNet, {}),  # stages=(...), stem_width, head_width of your own
    **{name: (ConvNeXt, size) for name, size in SIZES.items()},
    "convnext": (ConvNeXt, {}),  # widths=(...), depths=(...) of your own
}


def create_model(name, num_classes=1000, *, rngs, **arguments):
    """A network with fresh parameters, as an evaluation view (running statistics).

    Args:
      name: a key of MODELS: bnext_tiny, bnext_small, bnext_middle, bnext_large, bnext18; "bnext" with widths=(...);
        the teachers efficientnet_b0, efficientnet_b2, efficientnet_b4, tf_efficientnet_lite0, convnext_tiny, and both
        families by arguments.
      num_classes: outputs of the classifier.
      rngs: nnx.Rngs with a "params" stream or a default seed.
      **arguments: of the network's class, e.g. elm_attention=False, stem_stride=1.
    Returns:
      An nnx.Module: images [N,H,W,3], normalised -> logits [N,num_classes] in float32.
    Raises:
      UserError: unknown name, or an argument that this network does not take.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}; one of: {', '.join(MODELS)}")
    cls, fixed = MODELS[name]
    try:
        model = cls(num_classes=num_classes, rngs=rngs, **{**fixed, **arguments})
    except TypeError as error:
        raise UserError(f"model {name!r}: {error}") from error
    return nnx.view(model, use_running_average=True, raise_if_not_found=False)


def abstract_model(name, num_classes=1000, **arguments):
    """The same network with shapes in place of arrays: nothing is computed. Arguments and errors as create_model's."""
    return nnx.eval_shape(lambda: create_model(name, num_classes, rngs=nnx.Rngs(jax.random.key(0)), **arguments))
