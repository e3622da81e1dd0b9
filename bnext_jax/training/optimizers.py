"""The optimizers by name, with two weight-decay groups and the gradient clipping of PyTorch. All of them come from optax."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from bnext_jax.config import OptimizerConfig

CLIP_EPSILON = 1e-6

DIRECTIONS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": lambda config: optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
    "adam": lambda config: optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
    "radam": lambda config: optax.scale_by_radam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
    "sgd": lambda config: optax.trace(decay=config.beta1),
}


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips gradients by their global norm, with PyTorch's formula.

    Multiplies every gradient by min(1, max_norm / (norm + 1e-6)), where norm is the 2-norm of all gradients together.

    Args:
      max_norm: upper bound of the global norm.
    Returns:
      A stateless transformation.
    """

    def update(grads, _params):
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(grads) + CLIP_EPSILON))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)

    return optax.stateless(update)


def _decay(rates: Mapping[str, float], groups: Mapping[str, str]) -> optax.GradientTransformationExtraArgs:
    """Adds rate * parameter to the updates. `decays`, a boolean scalar of the step, turns it off; None = it is on."""

    def update(updates, state, params, *, decays=None, **_):
        factor = 1 if decays is None else decays
        return {path: u + factor * rates[groups[path]] * params[path] for path, u in updates.items()}, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def make_optimizer(config: OptimizerConfig, decay_groups: Mapping[str, str]) -> optax.GradientTransformationExtraArgs:
    """Makes the optimizer without the learning rate. The training step multiplies its result by the rate and subtracts it.

    First the gradients g are clipped. Then, for a parameter p with the weight decay d of its group:

        adamw:   m / (sqrt(v) + epsilon) + d p       m, v: bias-corrected moments of g (Loshchilov and Hutter 2017, arXiv 1711.05101)
        adam:    m / (sqrt(v) + epsilon)             of g + d p, as in PyTorch (Kingma and Ba 2014, arXiv 1412.6980)
        radam:   rectified adam                      of g + d p, as in PyTorch (Liu et al. 2019, arXiv 1908.03265)
        sgd:     buffer <- beta1 buffer + g + d p    as in PyTorch

    A recipe with c * (sum of squares) in the loss is d = 2 c with adam, radam or sgd.

    Args:
      config: its name, betas, epsilon, clip norm and the two decay rates.
      decay_groups: {parameter path: "weights" or "rest"}.
    Returns:
      A transformation over a flat dict of parameters. Its update takes `decays`, a boolean scalar: whether there is weight decay in this
      step; None = there is.
    """
    clip = optax.identity() if config.clip_norm is None else clip_by_global_norm(config.clip_norm)
    decay = _decay({"weights": config.decay_weights, "rest": config.decay_rest}, decay_groups)
    direction = DIRECTIONS[config.name](config)
    return optax.chain(clip, direction, decay) if config.name == "adamw" else optax.chain(clip, decay, direction)
