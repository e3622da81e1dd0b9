"""The command `quickstart`: trains two small real-valued teachers on digits, and distills a narrow binary student from both."""

import dataclasses
import logging
import os
import time
from typing import Any

from bnext_jax import recipes
from bnext_jax.analysis import count
from bnext_jax.config import Config, DistillConfig
from bnext_jax.data.prepare import prepare
from bnext_jax.host.progress import duration
from bnext_jax.io.load import load
from bnext_jax.plot.curves import curves
from bnext_jax.training.loop import train

log = logging.getLogger(__name__)
FOLDER = "runs/quickstart"
TEACHERS = {"assistant": "EfficientNet", "main": "ConvNeXt"}


def configs(root: os.PathLike | str, seed: int, form: str = "") -> dict[str, Config]:
    """Makes the checked configurations of the three runs.

    Args:
      root: folder of the three runs. The student's configuration holds the teachers' paths below it.
      seed: random seed of all three runs.
      form: "" or "smoke".
    Returns:
      {"assistant", "main", "student": Config}, in the order of training.
    """
    made = {role: recipes.digits_teacher(form or role) for role in TEACHERS}
    made["student"] = recipes.digits_student(form or "distilled")
    root = os.path.abspath(root)  # another spelling of the same folder must resume the same run
    made["student"].distill = DistillConfig(main=f"{root}/main", assistants=(f"{root}/assistant",))
    return {role: dataclasses.replace(config, seed=seed).check() for role, config in made.items()}


def quickstart(workdir: os.PathLike | str = FOLDER, seed: int = 0, form: str = "") -> dict[str, Any]:
    """Trains the teachers and the student, evaluates them, and draws the curves. A second call resumes an interrupted one.

    Args:
      workdir: folder of the three runs.
      seed: random seed of initialization, image order and augmentation.
      form: "" or "smoke" (seconds instead of minutes, for tests).
    Returns:
      {"student": test top-1 in percent, "teachers": {role: top-1 in percent}, "binary": whether all binary weights are exactly +-1,
      "bytes", "parameters", "binary_weights", "train_seconds": of all three runs, with compilation, "picture", "workdir"}.
      After a stop signal instead: what `train` returns for the stopped run. The same command continues there.
    Raises:
      UserError: see `train`.
    """
    root, made = workdir, configs(workdir, seed, form)
    prepare(made["student"].data)
    results, began = {}, time.monotonic()
    for role, config in made.items():
        log.info("training the %s (%s)", role, TEACHERS.get(role, "binary student"))
        results[role] = train(config, f"{root}/{role}")
        if "exit_code" in results[role]:  # told to stop: a student must not learn from a half-trained teacher
            return {**results[role], "workdir": str(root)}
    seconds = time.monotonic() - began
    model, _ = load(f"{root}/student")
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
