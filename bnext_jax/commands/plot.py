"""The command `plot`: pictures of a run, of its recipe, of a network, and of the field."""

from bnext_jax.errors import UserError
from bnext_jax.plot import augmentation, comparison, curves, features, report

# what -> {flag: whether it must be given}
FLAGS = {
    "curves": {"workdir": False},
    "features": {"checkpoint": True, "layers": False},
    "augmentation": {"config": True},
    "comparison": {},
    "report": {"workdir": True},
}


def plot(files, workdir=None, config=None, checkpoint=None, layers=(), output=None):
    """Draws one picture, or a report, and returns {"picture": its path}, of features and report more.

    Args:
      files: what to draw, a key of FLAGS; after "curves" work directories, after "features" an image, after "report" images.
      workdir: of curves (as another one) and report. config: of augmentation. checkpoint, layers: of features.
      output: the file to write; its ending says its kind (PNG, SVG or PDF); None = a name of its own.
    Raises:
      UserError: another word, or what it needs is missing; see the functions.
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
    if what == "features":
        return features.features(rest, checkpoint, layers, output)
    if what == "report":
        return report.report(workdir, rest, output)
    if rest:
        raise UserError(f"plot {what} takes no file names, got {' '.join(rest)}")
    return {"picture": augmentation.augmentation(config, output) if what == "augmentation" else comparison.comparison(output)}
