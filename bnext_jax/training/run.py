"""One training run: everything that it consists of, made from its configuration and checked before anything compiles."""

import json
import logging

import jax
from clu import parameter_overview
from flax import nnx

from bnext_jax.config import flat_json, to_json
from bnext_jax.data import faults, pipeline, splits, store
from bnext_jax.distill.schedule import TeacherSchedule
from bnext_jax.host.process import revision
from bnext_jax.io.digest import comparable
from bnext_jax.io.files import write_whole
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from bnext_jax.training import cluster, evaluator, memory, mesh, preemption
from bnext_jax.training.init import start_from
from bnext_jax.training.programs import Programs, check_input, train_batch

log = logging.getLogger(__name__)
MEASURED_FILE = "teachers.json"
PARAMETERS_FILE = "parameters.txt"


class Run:
    """Everything that one training run consists of.

    Attributes:
      state: the training state on the devices. batches: pipeline.TrainBatches of this process. step: compiled, or None before
        prepare_epoch. steps_per_epoch, total_steps: of the whole run. temperature: of the last step whose metrics were read.
    Raises:
      UserError: see the checks.
    """

    def __init__(self, config, folder):
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
        self.faults = faults.Faults(self.train_source, data.undecodable_share, self.steps_per_epoch * config.batch_size)
        images = len(self.train_source)
        if images % config.batch_size:
            log.info("each epoch leaves out %d of the %d images, others every time", images % config.batch_size, images)
        self.train_shape = self.batches[0]["image"].shape[1:]
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
        if config.init:
            params, batch_stats = start_from(config.init, self.model_spec, params, batch_stats, config.init_new_head)
        self.weights_digest = comparable({**params, **batch_stats})
        self.state = self.shardings.put_state(self.programs.initial_state(params, batch_stats))
        self.step, self.temperature = None, 1.0

    def overview(self):
        """Writes clu's table of all parameters into the folder, and logs their number."""
        table = parameter_overview.get_parameter_overview(self.state["params"], include_stats=False)
        path = self.folder / PARAMETERS_FILE
        log.info("parameters: %s; each of them: %s", table.splitlines()[-1].removeprefix("Total: "), path)
        if cluster.is_first():
            write_whole(path, table + "\n", "table of parameters")

    def facts(self):
        """{name: JSON value}: what must be equal in all processes of a run."""
        return {
            **flat_json(self.config),
            "commit": revision(),
            "jax": jax.__version__,
            "images": [len(self.train_source), len(self.eval_source)],
            "dataset": store.checksum(self.config.data),
            "initial weights": self.weights_digest,
        }

    def read(self, start, last):
        """Yields the batches of steps start..last-1 on the devices, sent ahead of their use; Faults names what was replaced."""
        data = self.config.data
        batches = pipeline.iterate(self.batches, start_step=start, stop_step=last, threads=data.threads, workers=data.workers)

        def put(batch):
            self.faults.look(batch["undecodable"])
            return self.shardings.put_batch(batch)

        return pipeline.ahead(batches, put)

    def blank_batch(self):
        """A batch without content, for the steps that other processes have begun when this one's data fail."""
        return self.shardings.put_batch(train_batch(len(self.batches.rows), self.train_shape))

    def metadata(self, step):
        """What a checkpoint says about itself; `step` steps are done."""
        config = self.config
        return {
            "model": self.model_spec,
            "step": step,
            "epoch": step // self.steps_per_epoch,
            "temperature": self.temperature,
            "exact_signs": self.programs.network.has_exact_signs(self.temperature),
            "preprocessing": {
                "mean": list(config.data.mean),
                "std": list(config.data.std),
                "eval_transform": config.data.eval_transform,
                "image_shape": list(self.eval_shape),
            },
            "class_names": list(self.train_source.class_names),
            "precision": str(self.programs.dtype),
            "config": to_json(config),
        }

    def evaluate(self, stop=None):
        """Top-1, top-5, loss and examples on the evaluation split. stop: preemption.Preemption that interrupts it, see evaluator."""
        variables = self.shardings.put({**self.state["params"], **self.state["batch_stats"]})
        return self._evaluated(self.programs.eval_step, variables, stop)

    def _evaluated(self, step, variables, stop):
        config = self.config
        return evaluator.evaluate(step, variables, self.eval_source, self.shardings, config.data, config.eval_batch_size, stop=stop)

    def measure_teachers(self, stop=None):
        """{teacher: {"top1", "top5", "loss", "examples"}} on the evaluation split, in the student's preprocessing and the teachers'
        precision; measured once a run and kept in its folder.
        """
        config, data, path = self.config, self.config.data, self.folder / MEASURED_FILE
        names = config.distill.teacher_names()
        kept = cluster.texts(path.read_text() if path.exists() else "{}")[0]  # one process may have seen another's file
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

    def prepare_epoch(self, epoch):
        """Sends the epoch's teachers to the devices; where they change, and at first, compiles a new step."""
        config = self.config
        changed = self.schedule.update(epoch)
        if not changed and self.step is not None:
            return
        self.step = None  # frees the old one's memory
        step = self.programs.train_step(dict(self.schedule.networks), self.state)
        arguments = (self.state, self.blank_batch(), self.flag(preemption.GO), self.schedule.variables)
        self.step = memory.compile_within(step, arguments, config, self.shardings.devices)

    def note_batch(self, path, step, values):
        """Writes what is known of one step into a JSON file: its numbers, epoch, and the indices of its images in the dataset."""
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
