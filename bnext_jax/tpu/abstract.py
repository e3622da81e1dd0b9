"""Builds the programs of a config from shapes alone: no data, no weights, and descriptions of devices instead of devices."""

import dataclasses
import math
import pathlib
import random
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bnext_jax.data import splits, store
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.distill import roster, schedule
from bnext_jax.errors import UserError
from bnext_jax.io.load import describe
from bnext_jax.models.table import abstract_model
from bnext_jax.nn.network import Network, split
from bnext_jax.training import mesh
from bnext_jax.training.programs import Programs, check_input, check_maps, train_batch

if TYPE_CHECKING:
    from bnext_jax.config import Config, DataConfig

# Datasets that need not be prepared: classes, images of each split, (height, width) of a typical image.
KNOWN: dict[str, tuple[int, dict[str, int], tuple[int, int]]] = {
    "imagenet2012": (1000, {"train": 1_281_167, "validation": 50_000}, (375, 500)),
    "cifar10": (10, {"train": 50_000, "test": 10_000}, (32, 32)),
    "cifar100": (100, {"train": 50_000, "test": 10_000}, (32, 32)),
    "fashion_mnist": (10, {"train": 60_000, "test": 10_000}, (28, 28)),
    "digits": (10, {"train": 1437, "test": 360}, (8, 8)),
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts about a dataset that a plan needs.

    Attributes:
      classes: number of classes.
      images: number of images in the training split.
      train_shape: (height, width, 3) of a training image after the transform.
      eval_shape: (height, width, 3) of an evaluation image after the transform.
    """

    classes: int
    images: int
    train_shape: tuple
    eval_shape: tuple


def facts(data: "DataConfig") -> Facts:
    """Finds the facts about a config's dataset. Reads them from the prepared dataset, else from KNOWN.

    Args:
      data: a config's dataset and transforms.
    Returns:
      Facts.
    Raises:
      UserError: the dataset is neither prepared nor in KNOWN, or it is not prepared and the config names a part of a split.
    """
    if store.prepared_folder(data) is not None:
        train = splits.open_source(data, data.train_split)
        classes, images, example = len(train.class_names), len(train), train.example(0)[0]
    elif data.name not in KNOWN:
        raise UserError(f"dataset {data.name} is not prepared, so plan knows neither its classes nor its images; run `prepare`, or name one"
                        f" of: {', '.join(KNOWN)}")  # fmt: skip
    else:
        classes, sizes, size = KNOWN[data.name]
        if data.train_split not in sizes:
            raise UserError(
                f"config.data.train_split {data.train_split!r} of {data.name}, which is not prepared; plan knows {', '.join(sizes)}"
            )
        images, example = sizes[data.train_split], np.zeros((*size, 3), np.uint8)
    shapes = [Transform(line)(example, random.Random(0)).shape for line in (data.train_transform, data.eval_transform)]
    return Facts(classes, images, *shapes)


def _teachers(config: "Config", classes: int) -> tuple[dict[str, Network], dict[str, dict[str, Any]], list[str]]:
    """The teachers of the epochs with the most teacher parameters: ({role: Network}, {role: abstract variables}, models' names)."""

    def described(name: str) -> dict[str, Any]:
        tag, path = schedule.parts(name)
        if tag and tag not in roster.ROSTER:
            raise UserError(f"there is no teacher {tag}; one of: {', '.join(roster.ROSTER)}")
        if tag:
            return {"name": roster.ROSTER[tag].model, "num_classes": classes, "arguments": {}}
        if not pathlib.Path(path).exists():
            raise UserError(f"the teacher {path} does not exist, so plan does not know its network; name it TAG=FILE, or train it first")
        return describe(path)["model"]

    def split_teacher(name):
        told = described(name)
        return split(abstract_model(told["name"], told["num_classes"], **told["arguments"]), training=False), told["name"]

    distill = config.distill
    if not distill.main:
        return {}, {}, []
    main, name = split_teacher(distill.main)
    others = {assistant: split_teacher(assistant) for assistant in distill.assistants if assistant != distill.main}
    chosen, names = {"main": main}, [name]
    if others:
        assistant, told = max(others.values(), key=lambda other: sum(math.prod(leaf.shape) for leaf in other[0][1].values()))
        chosen["assistant"], names = assistant, [told, name]
    return (
        {role: network for role, (network, _, _) in chosen.items()},
        {role: {**params, **rest} for role, (_, params, rest) in chosen.items()},
        names,
    )


@dataclasses.dataclass(frozen=True)
class AbstractPrograms:
    """The programs of a config on a topology.

    Attributes:
      train: (jitted training step, its abstract arguments).
      evaluate: (jitted evaluation step, its abstract arguments).
      parameters: number of the student's parameters.
      teachers: names of the teachers' models.
    """

    train: tuple[Any, tuple]
    evaluate: tuple[Any, tuple]
    parameters: int
    teachers: list


def abstract_programs(config: "Config", where: Any, known: Facts) -> AbstractPrograms:
    """Builds the programs that `train` compiles, from shapes alone.

    Args:
      config: a checked Config.
      where: the aot.Topology to compile for.
      known: Facts about the dataset.
    Returns:
      AbstractPrograms.
    Raises:
      UserError: the batch does not divide over the devices, the student cannot take images of this size, or a teacher is unknown.
    """
    devices = len(where.devices)
    mesh.check_batch("batch_size", config.batch_size, config.batch_norm_group, devices, config.accumulate)
    mesh.check_batch("eval_batch_size", config.eval_batch_size, None, devices)
    shardings = mesh.make_shardings(config.mesh, where.devices)
    model = abstract_model(config.model.name, known.classes, **config.model.arguments())
    programs = Programs(config, shardings, model, max(1, known.images // config.batch_size), platform="tpu")
    _, params, batch_stats = split(model, training=False)
    for shape in {known.train_shape, known.eval_shape}:
        check_input(programs.eval_network, {**params, **batch_stats}, shape)
    taught, variables, names = _teachers(config, known.classes)
    if config.distill.attention_weight:
        teachers = {name: (taught[role], variables[role]) for name, role in zip(names, sorted(taught), strict=True)}
        check_maps((programs.eval_network, {**params, **batch_stats}), teachers, known.train_shape)
    current = jax.eval_shape(programs.initial_state, params, batch_stats)

    def lies(tree, places):
        return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places)

    def whole(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings.replicated), tree)

    def rows(batch):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings.batch), batch)

    flag = rows(np.zeros(devices, np.float32))
    batch = rows(train_batch(config.batch_size, known.train_shape))
    seen = {"image": (*known.eval_shape,), "label": (), "mask": ()}
    types = {"image": np.uint8, "label": np.int32, "mask": np.bool_}
    seen = rows({name: jax.ShapeDtypeStruct((config.eval_batch_size, *shape), types[name]) for name, shape in seen.items()})
    placed = lies(current, shardings.of_state(current))
    return AbstractPrograms(
        (programs.train_step(taught, placed), (placed, batch, flag, whole(variables))),
        (programs.eval_step, (whole({**params, **batch_stats}), seen, flag)),
        sum(math.prod(leaf.shape) for leaf in params.values()),
        names,
    )
