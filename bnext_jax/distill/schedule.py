"""The frozen teachers of a run: which one teaches in which epoch, and their networks."""

import dataclasses

from etils import epath

from bnext_jax.distill import roster as teachers
from bnext_jax.distill.losses import assistant_index
from bnext_jax.errors import UserError
from bnext_jax.io import load as networks
from bnext_jax.nn import network as state


def roles(distill, epochs, epoch):
    """{"main": path, "assistant": path} of an epoch, each a work directory or a PyTorch file; {} without distillation.

    Equal roles are one teacher: H and alpha of two equal teachers give the loss of one (BNext-L's last third).

    Args:
      distill: DistillConfig. epochs: length of the run. epoch: integer.
    """
    if not distill.main:
        return {}
    main = located(distill.main)
    if not distill.assistants:
        return {"main": main}
    assistant = located(distill.assistants[assistant_index(epoch, epochs, len(distill.assistants))])
    return {"main": main} if assistant == main else {"main": main, "assistant": assistant}


def parts(teacher):
    """(tag, path) of a teacher's name in the config: "TAG=FILE", or a path, whose tag is ""."""
    tag, equals, path = teacher.partition("=")
    return (tag, path) if equals and not epath.Path(teacher).exists() else ("", teacher)


def located(teacher):
    """The path in a teacher's name in the config, "PATH" or "TAG=FILE"."""
    return parts(teacher)[1]


def check(distill, class_names, mean, std):
    """Raises UserError unless every teacher can be read, is what its tag says, and knows the dataset's classes and pixel scale.

    distill: DistillConfig. class_names: of the student's dataset. mean, std: of the student's pixels.
    """
    for teacher in distill.teachers():
        tag, path = parts(teacher)
        if tag:
            teachers.check_file(tag, path)
        elif epath.Path(path).is_file():
            teachers.check_noted(path)
        described = networks.describe(path)
        name = described["model"]["name"]
        if tag and name != teachers.ROSTER[tag].model:
            raise UserError(f"{path} holds {name}, not the {teachers.ROSTER[tag].model} of teacher {tag}")
        if not networks.fits_classes(described, class_names):
            count = described["model"]["num_classes"]
            raise UserError(
                f"the teacher in {path} knows {count} classes, the dataset has {len(class_names)} or names them differently;"
                " train it on the student's dataset"
            )
        known = described["preprocessing"] or {"mean": list(mean), "std": list(std)}
        if (known["mean"], known["std"]) != (list(mean), list(std)):
            raise UserError(
                f"the teacher in {path} was trained with mean and std {known['mean']}, {known['std']}, the student's are"
                f" {list(mean)}, {list(std)}"
            )


@dataclasses.dataclass
class Faculty:
    """The teachers in office: networks for the step's structure, variables for its arguments; `appoint` changes them.

    shardings: train.mesh.Shardings, where the variables lie.
    """

    shardings: object
    paths: dict = dataclasses.field(default_factory=dict)
    networks: dict = dataclasses.field(default_factory=dict)
    variables: dict = dataclasses.field(default_factory=dict)

    def appoint(self, paths):
        """Loads what `paths` ({role: path}) adds, frees what it drops; returns whether anything changed."""
        if paths == self.paths:
            return False
        for role in [role for role, path in self.paths.items() if paths.get(role) != path]:
            del self.networks[role]
            for array in self.variables.pop(role).values():
                array.delete()  # at once, not when Python comes to it: the next one needs the place
        for role, path in paths.items():
            if self.paths.get(role) != path:
                model, _ = networks.load(path)
                self.networks[role], params, batch_stats = state.split(model, training=False)
                self.variables[role] = self.shardings.put({**params, **batch_stats})
        self.paths = dict(paths)
        return True
