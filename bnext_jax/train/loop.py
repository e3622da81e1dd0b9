"""The training loop: reads downwards, one labelled section after another."""

import itertools
import logging
import time

import jax
import jax.numpy as jnp
from flax import nnx

from bnext_jax.config import to_json
from bnext_jax.data import faults, pipeline, sources
from bnext_jax.errors import UserError
from bnext_jax.models import create_model
from bnext_jax.progress import Progress
from bnext_jax.train import checkpoint, evaluator, mesh, networks, optimizer, state, teachers, watch, workdir
from bnext_jax.train.step import StepSpec, compile_step, make_step

log = logging.getLogger(__name__)


def precision_type(name, otherwise=None):
    """The activations' type of a precision's name. "auto" = `otherwise`, or bfloat16 on TPU and float32 elsewhere.

    Raises UserError for float64 where JAX has it disabled.
    """
    if name == "auto":
        return otherwise or jnp.dtype("bfloat16" if jax.default_backend() == "tpu" else "float32")
    if name == "float64" and not jax.config.jax_enable_x64:
        raise UserError("config.precision float64 needs JAX_ENABLE_X64=1 in the environment")
    return jnp.dtype(name)


def check_input(network, variables, shape):
    """Raises UserError where the network cannot take images of `shape` (height, width, 3); computes nothing."""
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    _, _, channels = shape
    if channels != 3:
        raise UserError(f"the images have {channels} channels, the networks take 3")
    jax.eval_shape(network, variables, images)


class Run:
    """Everything that one training run consists of, built from its configuration and checked before anything compiles."""

    def __init__(self, config, folder):
        self.config, self.folder = config, folder
        # devices
        self.shardings = mesh.make_shardings()
        devices = jax.device_count()
        mesh.check_batch("batch_size", config.batch_size, config.batch_norm_group, devices)
        mesh.check_batch("eval_batch_size", config.eval_batch_size, None, devices)
        self.dtype = precision_type(config.precision)
        # data
        data = config.data
        self.train_source = sources.open_source(data, data.train_split)
        self.eval_source = sources.open_source(data, data.eval_split)
        self.batches = pipeline.TrainBatches(
            self.train_source, data.train_transform, batch_size=config.batch_size, epochs=config.epochs,
            rows=self.shardings.local_rows(config.batch_size), seed=config.seed,
        )  # fmt: skip
        self.steps_per_epoch, self.total_steps = self.batches.steps_per_epoch, self.batches.steps
        self.faults = faults.Faults(self.train_source, data.undecodable_share, self.steps_per_epoch * len(self.batches.rows))
        images = len(self.train_source)
        if images % config.batch_size:
            log.info("each epoch leaves out %d of the %d images, others every time", images % config.batch_size, images)
        train_shape = self.batches[0]["image"].shape[1:]
        self.eval_shape = pipeline.image_shape(self.eval_source, data.eval_transform)
        # teachers
        teachers.check(config.distill, self.train_source.class_names, data.mean, data.std)
        self.faculty = teachers.Faculty(self.shardings)
        # the network
        self.model_spec = {
            "name": config.model.name,
            "num_classes": len(self.train_source.class_names),
            "arguments": config.model.arguments(),
        }
        model = create_model(config.model.name, len(self.train_source.class_names), rngs=nnx.Rngs(config.seed), **config.model.arguments())
        self.network, params, batch_stats = state.split(model, training=True, batch_norm_group=config.batch_norm_group)
        self.eval_network, *_ = state.split(model, training=False)
        for shape in {train_shape, self.eval_shape}:
            check_input(self.eval_network, {**params, **batch_stats}, shape)
        # optimiser and state
        self.optimizer = optimizer.adamw(config.optimizer, self.network.decay_groups)
        self.state = self.shardings.put(state.initial_state(self.network, params, batch_stats, self.optimizer))
        # what is compiled
        self.spec = StepSpec(
            self.steps_per_epoch, config.epochs, data.mean, data.std, self.dtype,
            precision_type(config.distill.precision, self.dtype), config.distill.form, config.batch_norm_group,
            config.optimizer, config.temperature,
        )  # fmt: skip
        self.eval_step = evaluator.make_eval_step(self.eval_network, self.shardings, mean=data.mean, std=data.std, dtype=self.dtype)
        self.step = None

    def start_from(self, path):
        """Replaces the fresh weights by those of a trained network, see networks.start_from."""
        params, batch_stats = networks.start_from(path, self.model_spec, self.state["params"], self.state["batch_stats"])
        params = state.project(params, self.network.bounds)
        self.state = {**self.state, **self.shardings.put({"params": params, "batch_stats": batch_stats})}

    def read(self, start, last):
        """Yields the batches of steps start..last-1 on the devices, sent ahead of their use; Faults watches what was read."""
        data = self.config.data
        batches = pipeline.iterate(self.batches, start_step=start, stop_step=last, threads=data.threads, workers=data.workers)

        steps = itertools.count(start)

        def put(batch):
            self.faults.look(batch.pop("undecodable"), next(steps) // self.steps_per_epoch)
            return self.shardings.put_batch(batch)

        return pipeline.ahead(batches, put)

    def temperature(self, step):
        """The temperature of the epoch that `step` lies in."""
        return float(optimizer.temperature(self.config.temperature, self.config.epochs, step // self.steps_per_epoch))

    def metadata(self, step):
        """What a checkpoint says about itself; `step` steps are done."""
        config = self.config
        return {
            "model": self.model_spec,
            "step": step,
            "epoch": step // self.steps_per_epoch,
            "temperature": self.temperature(max(step - 1, 0)),
            "preprocessing": {
                "mean": list(config.data.mean),
                "std": list(config.data.std),
                "eval_transform": config.data.eval_transform,
                "image_shape": list(self.eval_shape),
            },
            "class_names": list(self.train_source.class_names),
            "precision": str(self.dtype),
            "config": to_json(config),
        }

    def evaluate(self):
        """Top-1, top-5, loss and examples on the evaluation split."""
        variables = {**self.state["params"], **self.state["batch_stats"]}
        return evaluator.evaluate(
            self.eval_step, variables, self.eval_source, self.shardings, self.config.data, self.config.eval_batch_size
        )

    def measure_teachers(self):
        """Logs each teacher's own top-1 on the evaluation split, in the student's preprocessing and the teachers' precision."""
        config, data = self.config, self.config.data
        for name in dict.fromkeys(filter(None, (config.distill.main, *config.distill.assistants))):
            model, _ = networks.load(teachers.located(name))
            network, params, batch_stats = state.split(model, training=False)
            step = evaluator.make_eval_step(network, self.shardings, mean=data.mean, std=data.std, dtype=self.spec.teacher_dtype)
            found = evaluator.evaluate(
                step, self.shardings.put({**params, **batch_stats}), self.eval_source, self.shardings, data, config.eval_batch_size
            )
            log.info("teacher %s: %s top-1 %.2f %%, top-5 %.2f %%", name, data.eval_split, found["top1"], found["top5"])

    def prepare_epoch(self, epoch):
        """Puts the epoch's teachers in office; makes a new step, which compiles at its first call, where they change."""
        changed = self.faculty.appoint(teachers.roles(self.config.distill, self.config.epochs, epoch))
        if changed or self.step is None:
            step = make_step(self.network, dict(self.faculty.networks), self.optimizer, self.spec)
            self.step = compile_step(step, self.shardings)


def train(config, workdir_path):
    """Trains, or resumes, one run.

    Args:
      config: a checked bnext_jax.config.Config. workdir_path: folder for checkpoints, logs and the configuration.
    Returns:
      {"top1", "top5" (percent), "loss", "examples" of the final evaluation, "steps", "epochs", "temperature",
      "binary" (whether every binary weight is exactly +-1), "images", "train_seconds", "examples_per_second",
      "finished", "workdir"}.
    Raises:
      UserError: see the checks; also a loss that is not finite, a checkpoint that cannot be written.
    """
    folder = workdir.claim(workdir_path, config)
    run = Run(config, folder)
    keep = config.checkpoint
    with checkpoint.Checkpoints(folder, keep.keep_latest, keep.keep_best) as checkpoints:
        start = _resume(run, checkpoints)
        if config.distill.measure:
            run.measure_teachers()
        last = min(run.total_steps, config.stop_at_step or run.total_steps)
        writer = watch.Writer(folder, start, config.tensorboard)
        try:
            seconds, final = _epochs(run, checkpoints, writer, start, last)
        finally:
            writer.close()
    done = max(start, last)
    temperature = run.temperature(max(done - 1, 0))
    images = (done - start) * config.batch_size
    return {
        **(final or run.evaluate()),
        "steps": done,
        "epochs": done // run.steps_per_epoch,
        "temperature": temperature,
        "binary": watch.is_binary(run.network.latent, run.state["params"], temperature),
        "images": images,
        "train_seconds": seconds,
        "examples_per_second": images / seconds if seconds else 0.0,
        "finished": done == run.total_steps,
        "workdir": str(workdir_path),
    }


def _resume(run, checkpoints):
    """Puts the newest whole checkpoint into the run; returns the steps that are done."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.state)
    restored = checkpoints.restore(abstract)
    if restored is None:
        if run.config.model.start_from:
            run.start_from(run.config.model.start_from)
        return 0
    restored_state, metadata = restored
    run.state = {**restored_state, "params": state.project(restored_state["params"], run.network.bounds)}
    log.info("resuming %s at step %d of %d", run.folder, metadata["step"], run.total_steps)
    return metadata["step"]


def _epochs(run, checkpoints, writer, start, last):
    """Steps start..last-1; returns (seconds spent in steps, the evaluation of the last step or None)."""
    config = run.config
    data = run.read(start, last)
    meter, binary = watch.Meter(), watch.BinaryWatch(run.network.latent, run.state["params"])
    seconds, final = 0.0, None
    began, waited = time.perf_counter(), 0.0
    with Progress("train", last, start) as progress:
        for step in range(start, last):
            if step == start or step % run.steps_per_epoch == 0:
                run.prepare_epoch(step // run.steps_per_epoch)
            asked = time.perf_counter()
            batch = next(data)
            waited += time.perf_counter() - asked
            run.state, metrics = run.step(run.state, batch, run.faculty.variables)
            meter.add(step, metrics)
            progress.step()

            done = step + 1
            epoch_ends = done % run.steps_per_epoch == 0
            every = config.checkpoint.every_steps
            if not (epoch_ends or done == last or (every and done % every == 0)):
                continue
            meter.read()  # a save waits until its own step is known to be finite
            if not (epoch_ends or done == last):
                checkpoints.save(done, run.state, run.metadata(done))
                continue

            spent = time.perf_counter() - began
            seconds += spent
            values = _epoch_values(run, meter, binary, step, spent, waited)
            final = None
            if done == last or (done // run.steps_per_epoch) % config.eval_every_epochs == 0:
                try:
                    final = run.evaluate()
                except UserError:
                    checkpoints.save(done, run.state, run.metadata(done))  # the epoch is not lost with its evaluation
                    checkpoints.wait()
                    raise
                values |= {f"test_{name}": final[name] for name in ("top1", "top5", "loss")}
            writer.write(done, values)
            checkpoints.save(done, run.state, run.metadata(done), top1=final and final["top1"])
            _tell(progress, run, done, values)
            meter.reset()
            began, waited = time.perf_counter(), 0.0
    return seconds, final


def _epoch_values(run, meter, binary, step, spent, waited):
    temperature = run.temperature(step)
    images = meter.steps * run.config.batch_size
    return {
        "epoch": step // run.steps_per_epoch + 1,
        "steps": meter.steps,  # that this line sums up; fewer than an epoch's after a resume in its middle
        "train_loss": meter.loss / meter.steps,
        "train_top1": 100 * meter.correct / images,
        "learning_rate": meter.last["learning_rate"],
        "temperature": temperature,
        **binary.look(run.state["params"], temperature),
        "images_per_second": images / spent,
        "data_wait_seconds": waited,
        "undecodable": run.faults.counts[step // run.steps_per_epoch],  # images replaced by others
    }


def _tell(progress, run, done, values):
    test = f", test top-1 {values['test_top1']:.2f} %" if "test_top1" in values else ""
    progress.line(
        f"epoch {-(-done // run.steps_per_epoch)}/{run.config.epochs}, loss {values['train_loss']:.4f},"
        f" top-1 {values['train_top1']:.2f} %{test}, temperature {values['temperature']:.2g}, {values['images_per_second']:.0f} images/s"
    )
