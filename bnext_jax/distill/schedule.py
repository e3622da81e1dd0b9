"""The frozen teachers of a run: checks and reads each teacher's file once, and decides which teachers teach in which epoch."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from bnext_jax.config import DataConfig, DistillConfig
from bnext_jax.data import preprocessing
from bnext_jax.distill import roster
from bnext_jax.distill.losses import assistant_index
from bnext_jax.errors import UserError, naming
from bnext_jax.io import buckets, sidecar
from bnext_jax.io.load import fits_classes, load
from bnext_jax.io.paths import to_path
from bnext_jax.nn.network import Network, split


def roles(distill: DistillConfig, epochs: int, epoch: int) -> dict[str, str]:
    """Which teachers teach in an epoch.

    If main teacher and assistant are the same file, only the main teacher is named. The loss is the same: with two equal teachers, H and
    alpha give the loss of one (BNext-L's last third).

    Args:
      distill: the config of the distillation.
      epochs: length of the run.
      epoch: counted from 0.
    Returns:
      {"main": name, "assistant": name}, with the config's names. Roles that are not filled are left out; {} without distillation.
    """
    if not distill.main:
        return {}
    if not distill.assistants:
        return {"main": distill.main}
    assistant = distill.assistants[assistant_index(epoch, epochs, len(distill.assistants))]
    return {"main": distill.main} if located(assistant) == located(distill.main) else {"main": distill.main, "assistant": assistant}


def parts(teacher: str) -> tuple[str, str]:
    """Splits a teacher's name in the config, "TAG=FILE" or "PATH".

    A name that is an existing path, or a path in a bucket, is taken as a path, even with a "=" in it.

    Returns:
      (tag, path); the tag of "PATH" is "". "~" is expanded.
    """
    tag, equals, path = teacher.partition("=")
    if not equals or "://" in tag or os.path.exists(os.path.expanduser(teacher)):
        tag, path = "", teacher
    return tag, str(to_path(path, "config.distill"))


def located(teacher: str) -> str:
    """The path in a teacher's name in the config, "TAG=FILE" or "PATH"."""
    return parts(teacher)[1]


def read(teacher: str, data: DataConfig, class_names: Sequence[str]) -> tuple[Network, dict[str, np.ndarray]]:
    """Reads a teacher and checks that it fits the run.

    Args:
      teacher: its name in the config, "TAG=FILE" or "PATH".
      data: the run's data config.
      class_names: the dataset's class names.
    Returns:
      (the network as an evaluation view, {path: array}: its variables on the host).
    Raises:
      UserError: the file cannot be read or is not the tag's file, it holds another network than the tag's, or the teacher has other
        classes or another scaling of images than the run.
    """
    tag, path = parts(teacher)
    place = to_path(path)
    buckets.check(place, "config.distill")
    with buckets.local_copy(place, sidecar.names_beside(place.name)) if place.is_file() else contextlib.nullcontext(place) as copy:
        if tag:
            roster.check_file(tag, copy)
        elif place.is_file():
            roster.check_noted(copy)
        with naming("config.distill"):
            model, metadata = load(copy, form="float", hint=roster.ROSTER[tag].model if tag else None)
    name = metadata["model"]["name"]
    if tag and name != roster.ROSTER[tag].model:
        raise UserError(f"{path} holds {name}, not the {roster.ROSTER[tag].model} of teacher {tag}")
    if not fits_classes(metadata, class_names):
        count = metadata["model"]["num_classes"]
        raise UserError(
            f"the teacher in {path} knows {count} classes, the dataset has {len(class_names)} or names them differently;"
            " train it on the student's dataset"
        )
    known = preprocessing.of(metadata, data)
    if (known["mean"], known["std"]) != (list(data.mean), list(data.std)):
        raise UserError(
            f"the teacher in {path} was trained with mean and std {known['mean']}, {known['std']}, the student's are"
            f" {list(data.mean)}, {list(data.std)}"
        )
    network, params, batch_stats = split(model, training=False)
    return network, jax.device_get({**params, **batch_stats})


class TeacherSchedule:
    """The teachers of a run. The constructor reads all of them; `update` puts the teachers of an epoch on the devices.

    Args:
      distill: the config of the distillation.
      epochs: length of the run.
      data: the run's data config.
      class_names: the dataset's class names.
      shardings: training.mesh.Shardings; it puts the variables on the devices.
    Attributes:
      teachers: {name: (network, its variables on the host)} of all teachers.
      networks: {role: Network} of the current epoch; the step is built from them.
      variables: {role: {path: array}} of the current epoch, on the devices; arguments of the step.
    Raises:
      UserError: see `read`.
    """

    def __init__(self, distill: DistillConfig, epochs: int, data: DataConfig, class_names: Sequence[str], shardings: Any) -> None:
        self._distill, self._epochs, self._shardings = distill, epochs, shardings
        by_path = {located(name): name for name in reversed(distill.teacher_names())}  # TAG=FILE and FILE are the same file
        found = {path: read(name, data, class_names) for path, name in by_path.items()}
        self.teachers = {name: found[located(name)] for name in distill.teacher_names()}
        self._roles: dict[str, str]
        self.networks: dict[str, Network]
        self.variables: dict[str, dict[str, jax.Array]]
        self._roles, self.networks, self.variables = {}, {}, {}

    def update(self, epoch: int) -> bool:
        """Puts the teachers of an epoch on the devices, and frees the others there.

        Args:
          epoch: counted from 0.
        Returns:
          Whether the teachers changed.
        """
        wanted = roles(self._distill, self._epochs, epoch)
        if wanted == self._roles:
            return False
        for role in [role for role, name in self._roles.items() if wanted.get(role) != name]:
            del self.networks[role]
            for array in self.variables.pop(role).values():
                array.delete()  # now, not at garbage collection: the next teacher needs the memory
        for role, name in wanted.items():
            if self._roles.get(role) != name:
                self.networks[role], variables = self.teachers[name]
                self.variables[role] = self._shardings.put(variables)
        self._roles = wanted
        return True
