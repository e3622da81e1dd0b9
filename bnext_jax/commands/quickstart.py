"""The command `quickstart`: digits, two small real-valued teachers, a narrow binary student distilled from both."""

import dataclasses
import logging
import os
import time

from bnext_jax import recipes
from bnext_jax.analysis import count
from bnext_jax.config import DistillConfig
from bnext_jax.data.prepare import prepare
from bnext_jax.host.progress import duration
from bnext_jax.io import checkpoint
from bnext_jax.plot.curves import curves
from bnext_jax.training.loop import train

log = logging.getLogger(__name__)
FOLDER = "runs/quickstart"
TEACHERS = {"assistant": "EfficientNet", "main": "ConvNeXt"}


def configs(root, seed, form=""):
    """{"assistant", "main", "student"}: the checked configurations, with the teachers' folders below `root`. form: "" or "smoke"."""
    made = {role: recipes.digits_teacher(form or role) for role in TEACHERS}
    made["student"] = recipes.digits_student(form or "distilled")
    root = os.path.abspath(root)  # so that another spelling of the same folder resumes
    made["student"].distill = DistillConfig(main=f"{root}/main", assistants=(f"{root}/assistant",))
    return {role: dataclasses.replace(config, seed=seed).check() for role, config in made.items()}


def quickstart(workdir=FOLDER, seed=0, form=""):
    """Trains teachers and student, evaluates them, draws the curves. Started again, it resumes where it was.

    Args:
      workdir: folder of the three runs.
      seed: of initial weights, order and augmentation.
      form: "" or "smoke" (minutes to seconds, for tests).
    Returns:
      {"student": test top-1 in percent, "teachers": {role: top-1}, "binary", "bytes", "parameters", "binary_weights",
      "train_seconds": of all three, compilation included, "picture", "workdir"}.
    Raises:
      UserError: whatever `train` refuses.
    """
    root, made = workdir, configs(workdir, seed, form)
    prepare(made["student"].data)
    results, began = {}, time.monotonic()
    for role, config in made.items():
        log.info("training the %s (%s)", role, TEACHERS.get(role, "binary student"))
        results[role] = train(config, f"{root}/{role}")
    seconds = time.monotonic() - began
    model, _ = checkpoint.load_network(f"{root}/student")
    size = count.weigh(model)
    teachers = {role: results[role]["top1"] for role in TEACHERS}
    title = f"A binary network of {size['bytes'] / 1024:.0f} KiB, distilled from two real-valued teachers"
    named = {f"{role} ({name})": teachers[role] for role, name in TEACHERS.items()}
    picture = curves([f"{root}/student"], title=title, teachers=named)
    log.info("all training took %s", duration(seconds))
    return {
        "student": results["student"]["top1"],
        "teachers": teachers,
        "binary": results["student"]["binary"],
        **{key: size[key] for key in ("bytes", "parameters", "binary_weights")},
        "train_seconds": round(seconds, 1),
        "picture": picture,
        "workdir": str(root),
    }
