"""The frozen teachers of a run: which work directory teaches in which epoch, and their networks."""

import dataclasses

from bnext_jax.distill import assistant_index
from bnext_jax.errors import UserError
from bnext_jax.train import checkpoint, state


def roles(distill, epochs, epoch):
    """{"main": work directory, "assistant": work directory} of an epoch; {} without distillation.

    Equal roles are one teacher: H and alpha of two equal teachers give the loss of one (BNext-L's last third).

    Args:
      distill: DistillConfig. epochs: length of the run. epoch: integer.
    """
    if not distill.main:
        return {}
    if not distill.assistants:
        return {"main": distill.main}
    assistant = distill.assistants[assistant_index(epoch, epochs, len(distill.assistants))]
    return {"main": distill.main} if assistant == distill.main else {"main": distill.main, "assistant": assistant}


def check(distill, class_names, mean, std):
    """Raises UserError unless every teacher can be read, knows the same classes and expects the same pixel scale.

    distill: DistillConfig. class_names: of the student's dataset. mean, std: of the student's pixels.
    """
    for path in dict.fromkeys(filter(None, (distill.main, *distill.assistants))):
        described = checkpoint.describe(path)
        if described["class_names"] != list(class_names):
            raise UserError(
                f"the teacher in {path} knows {len(described['class_names'])} classes, the dataset has {len(class_names)} or names"
                " them differently; train it on the student's dataset"
            )
        scale = described["preprocessing"]["mean"], described["preprocessing"]["std"]
        if scale != (list(mean), list(std)):
            raise UserError(f"the teacher in {path} was trained with mean and std {scale}, the student's are {list(mean)}, {list(std)}")


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
        """Loads what `paths` ({role: work directory}) adds, frees what it drops; returns whether anything changed."""
        if paths == self.paths:
            return False
        for role in self.paths.keys() - paths.keys():
            del self.networks[role], self.variables[role]
        for role, path in paths.items():
            if self.paths.get(role) != path:
                model, _ = checkpoint.load_network(path)
                self.networks[role], params, batch_stats = state.split(model, training=False)
                self.variables[role] = self.shardings.put({**params, **batch_stats})
        self.paths = dict(paths)
        return True
