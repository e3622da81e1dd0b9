"""One training run: builds all its parts from the configuration, and checks them before anything compiles."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from clu import parameter_overview
from flax import nnx

from bnext_jax.config import Config
from bnext_jax.config_json import flat_json, to_json
from bnext_jax.data import faults, pipeline, splits, store
from bnext_jax.distill.schedule import TeacherSchedule
from bnext_jax.errors import UserError
from bnext_jax.host.process import revision
from bnext_jax.io.digest import comparable
from bnext_jax.io.files import write_whole
from bnext_jax.io.paths import Path
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from bnext_jax.training import cluster, evaluator, memory, mesh, preemption
from bnext_jax.training.init import start_from
from bnext_jax.training.programs import Programs, check_input, check_maps, train_batch

log = logging.getLogger(__name__)
MEASURED_FILE = "teachers.json"
PARAMETERS_FILE = "parameters.txt"


class Run:
    """All parts of one training run.

    Args:
      config: a checked configuration.
      folder: the work directory, from workdir.Claim.
    Attributes:
      config: the configuration.
      folder: the work directory.
      shardings: the device mesh.
      flag: puts the stop flag of a step on the devices, see training.preemption.
      train_source: the training split.
      eval_source: the evaluation split.
      batches: this process's rows of the training batches.
      steps_per_epoch: number of steps in an epoch.
      total_steps: number of steps in the whole run.
      faults: counts and names training images that cannot be decoded.
      dataset: {"name", "train_images" (their number), "sha256" (of the files, see store.checksum; "" = unknown)}.
      train_shape: (height, width, 3) of a training image.
      eval_shape: (height, width, 3) of an evaluation image.
      orientation: how `predict` must show photos to the network, see store.orientation.
      schedule: the teachers, and which of them teach in an epoch.
      model_spec: {"name", "num_classes", "arguments"} of the student.
      programs: the student's views and the programs to compile.
      weights_digest: checksum of the initial weights, to compare between processes; "" with a single process.
      state: the training state on the devices.
      step: the compiled training step; None before the first prepare_epoch.
      temperature: the temperature of the last step whose metrics this process has read; None for a student that takes none.
      done: number of finished steps; the training loop sets it.
    Raises:
      UserError: a part does not fit the configuration: batch size, dataset, teachers, network or initial weights.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.done: int
        self.step: Any
        self.config, self.folder = config, folder
        # devices
        devices = jax.device_count()
        mesh.check_batch("batch_size", config.batch_size, config.batch_norm_group, devices, config.accumulate)
        mesh.check_batch("eval_batch_size", config.eval_batch_size, None, devices)
        self.shardings = mesh.make_shardings(config.mesh)
        self.flag = preemption.Flags(self.shardings)
        # data
        data = config.data
        self.train_source = splits.open_source(data, data.train_split)
        self.eval_source = splits.open_source(data, data.eval_split)
        self.batches = pipeline.TrainBatches(
            self.train_source, data.train_transform, batch_size=config.batch_size, epochs=config.epochs,
            rows=self.shardings.local_rows(config.batch_size), seed=config.seed,
        )  # fmt: skip
        self.steps_per_epoch, self.total_steps = self.batches.steps_per_epoch, self.batches.steps
        self.dataset = {"name": data.name, "train_images": len(self.train_source), "sha256": store.checksum(data)}
        self.faults = faults.Faults(self.train_source, data.undecodable_share, self.steps_per_epoch * config.batch_size)
        images = len(self.train_source)
        if images % config.batch_size:
            log.info("each epoch skips %d of the %d images, a different selection each time", images % config.batch_size, images)
        self.train_shape = self.batches[0]["image"].shape[1:]
        self.orientation = store.orientation(data)
        self.eval_shape = pipeline.image_shape(self.eval_source, data.eval_transform)
        # teachers
        self.schedule = TeacherSchedule(config.distill, config.epochs, data, self.train_source.class_names, self.shardings)
        # the network
        self.model_spec = {
            "name": config.model.name,
            "num_classes": len(self.train_source.class_names),
            "arguments": config.model.arguments(),
        }
        model = create_model(config.model.name, len(self.train_source.class_names), rngs=nnx.Rngs(config.seed), **config.model.arguments())
        self.programs = Programs(config, self.shardings, model, self.steps_per_epoch)
        _, params, batch_stats = split(model, training=False)
        for shape in {self.train_shape, self.eval_shape}:
            check_input(self.programs.eval_network, {**params, **batch_stats}, shape)
        if config.distill.main and config.distill.attention_weight:
            check_maps((self.programs.eval_network, {**params, **batch_stats}), self.schedule.teachers, self.train_shape)
        if config.init:
            params, batch_stats = start_from(
                config.init, self.model_spec, params, batch_stats, config.init_new_head, config.init_fresh_latent
            )
        self.weights_digest = comparable({**params, **batch_stats})
        self.state = self.shardings.put_state(self.programs.initial_state(params, batch_stats))
        self.step, self.temperature = None, None if self.programs.network.temperature is None else 1.0

    def overview(self) -> None:
        """Writes clu's table of all parameters into the work directory, and logs the number of parameters."""
        table = parameter_overview.get_parameter_overview(self.state["params"], include_stats=False)
        path = self.folder / PARAMETERS_FILE
        log.info("parameters: %s; full table: %s", table.splitlines()[-1].removeprefix("Total: "), path)
        if cluster.is_first():
            write_whole(path, table + "\n", "table of parameters")

    def facts(self) -> dict[str, Any]:
        """Returns {name: JSON value} of everything that must be equal in all processes of a run, see cluster.check_equal."""
        return {
            **flat_json(self.config),
            "commit": revision(),
            "jax": jax.__version__,
            "images": [len(self.train_source), len(self.eval_source)],
            "dataset": self.dataset["sha256"],
            "initial weights": self.weights_digest,
        }

    def read(self, start: int, last: int) -> Iterator[dict[str, jax.Array]]:
        """Yields the global batches of the steps start, ..., last - 1, on the devices.

        Sends each batch to the devices ahead of its use, and logs a warning for each replaced image.

        Args:
          start: first step.
          last: the step after the last one.
        """
        data = self.config.data
        batches = pipeline.iterate(self.batches, start_step=start, stop_step=last, threads=data.threads, workers=data.workers)

        def put(batch):
            self.faults.look(batch["undecodable"])
            return self.shardings.put_batch(batch)

        return pipeline.ahead(batches, put)

    def blank_batch(self) -> dict[str, jax.Array]:
        """Returns a blank batch. This process feeds it after its data fail, for steps that the other processes have begun."""
        return self.shardings.put_batch(train_batch(len(self.batches.rows), self.train_shape))

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns the JSON metadata of a checkpoint, which suffice to rebuild the network without the configuration.

        Args:
          step: number of finished steps.
        Returns:
          {"model", "step", "epoch", "temperature" (None without one), "exact_signs" (None without binary weights), "preprocessing",
          "class_names", "dataset", "precision", "config"}.
        """
        config = self.config
        return {
            "model": self.model_spec,
            "step": step,
            "epoch": step // self.steps_per_epoch,
            "temperature": self.temperature,
            "exact_signs": self.programs.network.has_exact_signs(self.state["batch_stats"], self.temperature),
            "preprocessing": {
                "mean": list(config.data.mean),
                "std": list(config.data.std),
                "eval_transform": config.data.eval_transform,
                "image_shape": list(self.eval_shape),
                "orientation": self.orientation,
            },
            "class_names": list(self.train_source.class_names),
            "dataset": self.dataset,
            "precision": str(self.programs.dtype),
            "config": to_json(config),
        }

    def check_dataset(self, metadata: Mapping[str, Any]) -> None:
        """Checks that a checkpoint's run saw the same dataset: a resumed run goes through the same images in the same order.

        Args:
          metadata: of a checkpoint, from `metadata`. What an older version did not write is not compared.
        Raises:
          UserError: the dataset was prepared anew since then; the message names what differs.
        """
        then, now, data = metadata.get("dataset", {}), self.dataset, self.config.data
        classes, names = metadata["class_names"], list(self.train_source.class_names)
        differing = []
        if len(classes) != len(names):
            differing.append(f"it had {len(classes)} classes, now {len(names)}")
        elif classes != names:
            first = next(i for i, old in enumerate(classes) if old != names[i])
            differing.append(f"class {first} was {classes[first]}, now {names[first]}")
        if then.get("train_images", now["train_images"]) != now["train_images"]:
            differing.append(f"{data.train_split} had {then['train_images']} images, now {now['train_images']}")
        if then.get("sha256") and now["sha256"] and then["sha256"] != now["sha256"] and not differing:
            differing.append("its files have other contents or another order")
        if differing:
            raise UserError(
                f"the dataset {data.name} is not the one that {self.folder} was trained on: {'; '.join(differing)}; bring the old one back,"
                " or start again in a new --workdir"
            )

    def evaluate(self, stop: preemption.Preemption | None = None) -> dict[str, float]:
        """Evaluates the student on the evaluation split, see evaluator.evaluate.

        Args:
          stop: interrupts the evaluation when a process receives a stop signal; None = nothing interrupts it.
        Returns:
          {"top1" (percent), "top5" (percent), "loss" (nats), "examples"}.
        """
        return self._evaluated(self.programs.eval_step, self.shardings.put(self.variables), stop)

    @property
    def variables(self) -> dict[str, jax.Array]:
        """All variables of the student now, {path: array} on the devices."""
        return {**self.state["params"], **self.state["batch_stats"]}

    def _evaluated(
        self, step: Callable[..., Mapping[str, jax.Array]], variables: dict[str, jax.Array], stop: preemption.Preemption | None
    ) -> dict[str, float]:
        config = self.config
        return evaluator.evaluate(step, variables, self.eval_source, self.shardings, config.data, config.eval_batch_size, stop=stop)

    def measure_teachers(self, stop: preemption.Preemption | None = None) -> dict[str, dict[str, float]]:
        """Evaluates each teacher on the evaluation split, with the student's preprocessing and the teachers' precision.

        Measures each teacher once per run; keeps the results in MEASURED_FILE in the work directory.

        Args:
          stop: as in evaluate.
        Returns:
          {teacher's name: {"top1" (percent), "top5" (percent), "loss" (nats), "examples"}}.
        """
        config, data, path = self.config, self.config.data, self.folder / MEASURED_FILE
        names = config.distill.teacher_names()
        kept = cluster.texts(path.read_text() if path.exists() else "{}")[0]  # of process 0: others may see an older file
        found = {name: values for name, values in json.loads(kept).items() if name in names}
        for name in names:
            if name not in found:
                network, variables = self.schedule.teachers[name]
                step = self.programs.eval_step_of(network, self.programs.spec.teacher_dtype)
                found[name] = self._evaluated(step, self.shardings.put(variables), stop)
            log.info("teacher %s: %s top-1 %.2f %%, top-5 %.2f %%", name, data.eval_split, found[name]["top1"], found[name]["top5"])
        if cluster.is_first():
            write_whole(path, json.dumps(found, indent=1), "teachers' accuracy")
        return found

    def prepare_epoch(self, epoch: int) -> None:
        """Sends the teachers of an epoch to the devices. Compiles a new step if the teachers change, and at the first call.

        Args:
          epoch: epoch index, from 0.
        Raises:
          UserError: the step does not fit into the memory of a device.
        """
        config = self.config
        changed = self.schedule.update(epoch)
        if not changed and self.step is not None:
            return
        self.step = None  # frees the memory of the old step before the new one compiles
        step = self.programs.train_step(dict(self.schedule.networks), self.state)
        arguments = (self.state, self.blank_batch(), self.flag(preemption.GO), self.schedule.variables)
        self.step = memory.compile_within(step, arguments, config, self.shardings.devices)

    def note_batch(self, path: Path, step: int, values: Mapping[str, Any]) -> None:
        """Writes a JSON file about one step: step, epoch, metrics, and the dataset indices of all images in its global batch.

        Args:
          path: file to write; the first process writes it.
          step: step index, from 0.
          values: {name: number}, the metrics of the step.
        """
        whole = pipeline.TrainBatches(
            self.train_source, self.config.data.train_transform, batch_size=self.config.batch_size, epochs=self.config.epochs,
            rows=range(self.config.batch_size), seed=self.config.seed,
        )  # fmt: skip
        epoch, indices = whole.image_indices(step)
        if cluster.is_first():
            write_whole(
                path,
                json.dumps({"step": step, "epoch": epoch, **{k: str(v) for k, v in values.items()}, "images": indices}),
                "list of images",
            )
