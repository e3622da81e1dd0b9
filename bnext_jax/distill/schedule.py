"""The frozen teachers of a run: each file is checked and read once; which one teaches in which epoch."""

import jax
from etils import epath

from bnext_jax.data import preprocessing
from bnext_jax.distill import roster
from bnext_jax.distill.losses import assistant_index
from bnext_jax.errors import UserError
from bnext_jax.io.load import fits_classes, load
from bnext_jax.nn.network import split


def roles(distill, epochs, epoch):
    """{"main": name, "assistant": name} of an epoch, names as in the config; {} without distillation.

    Equal roles are one teacher: H and alpha of two equal teachers give the loss of one (BNext-L's last third).

    Args:
      distill: DistillConfig.
      epochs: length of the run.
      epoch: integer.
    """
    if not distill.main:
        return {}
    if not distill.assistants:
        return {"main": distill.main}
    assistant = distill.assistants[assistant_index(epoch, epochs, len(distill.assistants))]
    return {"main": distill.main} if located(assistant) == located(distill.main) else {"main": distill.main, "assistant": assistant}


def parts(teacher):
    """(tag, path) of a teacher's name in the config: "TAG=FILE", or a path, whose tag is ""."""
    tag, equals, path = teacher.partition("=")
    return (tag, path) if equals and not epath.Path(teacher).exists() else ("", teacher)


def located(teacher):
    """The path in a teacher's name in the config, "PATH" or "TAG=FILE"."""
    return parts(teacher)[1]


def read(teacher, data, class_names):
    """A teacher that fits a run, checked before it is used.

    Args:
      teacher: its name in the config.
      data: the run's DataConfig.
      class_names: the dataset's.
    Returns:
      (Network, an evaluation view; its variables on the host).
    Raises:
      UserError: a file that cannot be read or is not the tag's, another network than the tag's, other classes, another scaling of images.
    """
    tag, path = parts(teacher)
    if tag:
        roster.check_file(tag, path)
    elif epath.Path(path).is_file():
        roster.check_noted(path)
    model, metadata = load(path)
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
    """A run's teachers, all of them read when this is made; `update` puts those of an epoch on the devices.

    Args:
      distill: DistillConfig.
      epochs: length of the run.
      data: the run's DataConfig.
      class_names: the dataset's.
      shardings: training.mesh.Shardings, where the variables lie.
    Attributes:
      teachers: {name: (Network, variables on the host)}.
      networks: {role: Network} of the present epoch, for the step's structure.
      variables: {role: variables} on the devices, for the step's arguments.
    Raises:
      UserError: see read.
    """

    def __init__(self, distill, epochs, data, class_names, shardings):
        self._distill, self._epochs, self._shardings = distill, epochs, shardings
        by_path = {located(name): name for name in reversed(distill.teacher_names())}  # TAG=FILE and FILE are one
        found = {path: read(name, data, class_names) for path, name in by_path.items()}
        self.teachers = {name: found[located(name)] for name in distill.teacher_names()}
        self._roles, self.networks, self.variables = {}, {}, {}

    def update(self, epoch):
        """Sends to the devices what an epoch needs, frees there what it does not; returns whether anything changed."""
        wanted = roles(self._distill, self._epochs, epoch)
        if wanted == self._roles:
            return False
        for role in [role for role, name in self._roles.items() if wanted.get(role) != name]:
            del self.networks[role]
            for array in self.variables.pop(role).values():
                array.delete()  # at once, not when Python collects it: the next teacher needs the memory
        for role, name in wanted.items():
            if self._roles.get(role) != name:
                self.networks[role], variables = self.teachers[name]
                self.variables[role] = self._shardings.put(variables)
        self._roles = wanted
        return True
