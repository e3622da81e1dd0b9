"""The command `plot`: draws a run, its training images, a network, or a comparison of published binary networks."""

from collections.abc import Sequence
from typing import Any

from bnext_jax.config import Config
from bnext_jax.errors import UserError
from bnext_jax.plot import augmentation, comparison, curves, features, report

# kind of picture -> {flag: whether it is required}
FLAGS = {
    "curves": {"workdir": False},
    "features": {"checkpoint": True, "layers": False},
    "augmentation": {"config": True},
    "comparison": {},
    "report": {"workdir": True, "checkpoint": False},
}


def plot(
    files: Sequence[str],
    workdir: str | None = None,
    config: Config | None = None,
    checkpoint: str | None = None,
    layers: Sequence[str] = (),
    output: str | None = None,
) -> dict[str, Any]:
    """Draws one picture, or writes a report.

    Args:
      files: a key of FLAGS, then its arguments: work directories for "curves", one image for "features", at most one for "report".
      workdir: the run's folder, for "report"; one more folder for "curves".
      config: a checked Config, for "augmentation".
      checkpoint: a work directory, a PyTorch file or a packed file, for "features"; the packed file of the run, for "report".
      layers: names of binary convolutions, for "features". () = five of those with 3x3 kernels.
      output: the file to write. Its suffix selects the format: PNG, SVG or PDF; HTML for "report". None = a default name.
    Returns:
      {"picture": path}. For "features" and "report" see plot.features.features and plot.report.report.
    Raises:
      UserError: an unknown kind of picture, a missing argument, or an error of the drawing function.
    """
    what, *rest = files or [""]
    if what not in FLAGS:
        raise UserError(f"plot draws: {', '.join(FLAGS)}; got {what or 'nothing'}")
    given = {"workdir": workdir, "config": config, "checkpoint": checkpoint, "layers": layers}
    missing = [f"--{flag}" for flag, needed in FLAGS[what].items() if needed and not given[flag]]
    if missing:
        raise UserError(f"plot {what} needs {', '.join(missing)}")
    unused = [f"--{flag}" for flag, value in given.items() if value and flag not in FLAGS[what]]
    if unused:
        raise UserError(f"plot {what} takes no {', '.join(unused)}")
    if what == "curves":
        workdirs = [*([workdir] if workdir else []), *rest]
        if not workdirs:
            raise UserError("plot curves needs --workdir=DIR, or work directories after its name")
        return {"picture": curves.curves(workdirs, output)}
    if what == "features" and checkpoint:
        return features.features(rest, checkpoint, layers, output)
    if what == "report" and workdir:
        return report.report(workdir, rest, output, checkpoint)
    if rest:
        raise UserError(f"plot {what} takes no file names, got {' '.join(rest)}")
    return {"picture": augmentation.augmentation(config, output) if config else comparison.comparison(output)}
