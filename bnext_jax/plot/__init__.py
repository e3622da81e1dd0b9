"""The command `plot`: pictures of a run, and of its recipe."""

from bnext_jax.errors import UserError
from bnext_jax.plot.augmentation import augmentation
from bnext_jax.plot.curves import curves

__all__ = ["augmentation", "curves", "plot"]


def plot(words, workdir=None, config=None, output=None):
    """Draws one picture and returns {"picture": its path}.

    Args:
      words: ["curves"], which needs a work directory, or ["augmentation"], which needs a config. output: PNG, SVG or PDF by its
        ending; None = a name of its own.
    Raises:
      UserError: another word, or what it needs is missing; see curves() and augmentation().
    """
    if words == ["curves"]:
        if not workdir:
            raise UserError("plot curves needs --workdir")
        return {"picture": curves(workdir, output)}
    if words == ["augmentation"]:
        if config is None:
            raise UserError("plot augmentation needs --config")
        return {"picture": augmentation(config, output)}
    raise UserError(f"plot draws: curves, augmentation; got {' '.join(words) or 'nothing'}")
