"""The training loop: reads downwards, one labelled section after another."""

import contextlib
import logging

import jax

from bnext_jax.errors import MachineLost, UserError, one_line
from bnext_jax.host.progress import Progress
from bnext_jax.nn.network import project
from bnext_jax.training import cluster, preemption, watch
from bnext_jax.training.checkpoints import Checkpoints
from bnext_jax.training.run import Run
from bnext_jax.training.workdir import check_shared, claim

log = logging.getLogger(__name__)
NOT_FINITE_FILE = "not_finite.json"


@contextlib.contextmanager
def _losses_told():
    """Where processes compute together, an error of the devices means that one of them is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise MachineLost(f"another process of the run ended ({one_line(error, 160)}); start all again") from error


@_losses_told()
def train(config, workdir):
    """Trains, or resumes, one run, alone or as one of several processes (see cluster.join).

    Args:
      config: a checked bnext_jax.config.Config. workdir: folder for checkpoints, logs and the configuration.
    Returns:
      {"top1", "top5" (percent), "loss", "examples" of the final evaluation, "steps", "epochs", "temperature",
      "binary" (whether every binary weight is exactly +-1), "images", "train_seconds", "examples_per_second",
      "finished", "workdir"}; also "teachers" with config.distill.measure. Where the run was told to stop (SIGTERM), after a
      save: {"steps", "finished": False, "workdir", "exit_code": 75}.
    Raises:
      UserError: see the checks; also a loss that is not finite, a checkpoint that cannot be written. In all processes.
      MachineLost: another process of the run ended.
    """
    folder = cluster.agree(lambda: claim(workdir, config))
    run = cluster.agree(lambda: Run(config, folder))
    cluster.check_equal(cluster.agree(run.facts))
    cluster.agree(lambda: check_shared(folder, config))
    cluster.agree(run.overview)
    keep = config.checkpoint
    with (
        preemption.Preemption() as stop,
        Checkpoints(folder, keep.keep_latest, keep.keep_best) as checkpoints,
        _losses_told(),  # also in here, so that leaving the checkpoints knows of it
    ):
        run.done = start = _resume(run, checkpoints)
        last = min(run.total_steps, config.stop_at_step or run.total_steps)
        try:
            measured = {"teachers": run.measure_teachers(stop)} if config.distill.measure else {}
            with contextlib.closing(cluster.agree(lambda: watch.Writer(folder, start, config.tensorboard))) as writer:
                seconds, final = _epochs(run, checkpoints, writer, start, last, stop)
            final = final or run.evaluate(stop)
        except preemption.Stopped:
            log.warning("told to stop after step %d of %d; the same command goes on from there", run.done, run.total_steps)
            return {"steps": run.done, "finished": False, "workdir": str(workdir), "exit_code": preemption.EXIT_CODE}
    images = (run.done - start) * config.batch_size
    return {
        **final,
        "steps": run.done,
        "epochs": run.done // run.steps_per_epoch,
        "temperature": run.temperature,
        "binary": watch.is_binary(run.programs.network.latent, run.state["params"], run.temperature),
        "images": images,
        "train_seconds": seconds,
        "examples_per_second": images / seconds if seconds else 0.0,
        "finished": run.done == run.total_steps,
        "workdir": str(workdir),
        **measured,
    }


def _resume(run, checkpoints):
    """Puts the newest whole checkpoint into the run; returns the steps that are done."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.state)
    restored = checkpoints.restore(abstract)
    if restored is None:
        return 0
    restored_state, metadata = restored
    run.temperature = metadata["temperature"]
    run.state = {**restored_state, "params": project(restored_state["params"], run.programs.network.bounds)}
    log.info("resuming %s at step %d of %d", run.folder, metadata["step"], run.total_steps)
    return metadata["step"]


def _epochs(run, checkpoints, writer, start, last, stop):
    """Steps start..last-1; returns (seconds spent in steps and waiting for data, the evaluation of the last step or None).

    Told to stop, it saves after the step at which all processes know it, and raises preemption.Stopped.
    """
    config, every = run.config, run.config.checkpoint.every_steps
    feed = preemption.Feed(run.read(start, last), run.blank_batch, run.flag, stop)
    meter, binary = watch.Meter(), watch.BinaryWatch(run.programs.network.latent, run.state["params"])
    clock, final = watch.Clock(), None

    def write(done, values):
        cluster.agree(lambda: writer.write(done, values))

    def save(done, top1=None):
        with clock.measure("checkpoint"):
            checkpoints.save(done, run.state, run.metadata(done), top1=top1)

    with Progress("train", last, start) as progress, watch.Profile(run.folder, config.profile_at_step) as profile:
        for step in range(start, last):
            if step == start or step % run.steps_per_epoch == 0:
                with clock.measure("compile"):
                    cluster.agree(lambda epoch=step // run.steps_per_epoch: run.prepare_epoch(epoch))
            with clock.measure("data_wait"):
                batch, flag = next(feed)
            profile.look(step)
            run.state, metrics = run.step(run.state, batch, flag, run.schedule.variables)
            run.done = done = step + 1
            epoch_ends, ends = done % run.steps_per_epoch == 0, done == last
            saves = epoch_ends or ends or (every and done % every == 0)
            _watch(run, meter, feed, step, metrics, whole=saves)  # a save waits until its own step is known to be finite
            progress.step()

            if epoch_ends or ends:
                values = _epoch_values(run, meter, binary, step, clock.read())
                meter.reset()
                final = None
                if not meter.stop and (ends or (done // run.steps_per_epoch) % config.eval_every_epochs == 0):
                    try:
                        with clock.measure("evaluation"):
                            final = run.evaluate(stop)
                    except (UserError, preemption.Stopped):  # the epoch is not lost with its evaluation
                        write(done, values)
                        save(done)
                        checkpoints.wait()
                        raise
                    values |= {f"test_{name}": final[name] for name in ("top1", "top5", "loss")}
                write(done, {**values, **clock.parts("evaluation")})
                clock.reset()  # a save at an epoch's end counts for the next one, whose line is not written yet
                save(done, final and final["top1"])
                _tell(progress, run, done, values)
            elif saves or meter.stop:
                save(done)
            if meter.stop:
                checkpoints.wait()
                raise preemption.Stopped
    return clock.total, final


def _watch(run, meter, feed, step, metrics, whole):
    """Takes a step's metrics; raises in all processes alike where one's data failed or where numbers are not finite.

    whole: read this step's own metrics too, not only those of the step before.
    """
    try:
        meter.add(step, metrics)
        if whole or meter.stop:
            meter.read()
    except watch.NotFinite as error:
        feed.check(meter.stop)  # blank images may well give such numbers
        path = run.folder / NOT_FINITE_FILE
        run.note_batch(path, error.step, error.values)
        raise UserError(f"{error}; the step's images are listed in {path}") from error
    feed.check(meter.stop)
    run.temperature = meter.last.get("temperature", run.temperature)
    run.faults.check(meter.undecodable)


def _epoch_values(run, meter, binary, step, seconds):
    images = meter.steps * run.config.batch_size
    return {
        "epoch": step // run.steps_per_epoch + 1,
        "steps": meter.steps,  # that this line sums up; fewer than an epoch's after a resume in its middle
        "train_loss": meter.loss / meter.steps,
        **{f"train_{name}": 100 * hits / images for name, hits in meter.top1().items()},
        **meter.norms(),
        "learning_rate": meter.last["learning_rate"],
        "temperature": run.temperature,
        **binary.look(run.state["params"], run.temperature, layers=run.config.watch_layers),
        "images_per_second": images / (seconds["step_seconds"] + seconds["data_wait_seconds"]),
        **seconds,
        "undecodable": meter.undecodable,  # images replaced by others
    }


def _tell(progress, run, done, values):
    test = f", test top-1 {values['test_top1']:.2f} %" if "test_top1" in values else ""
    progress.line(
        f"epoch {-(-done // run.steps_per_epoch)}/{run.config.epochs}, loss {values['train_loss']:.4f},"
        f" top-1 {values['train_top1']:.2f} %{test}, temperature {values['temperature']:.2g}, {values['images_per_second']:.0f} images/s"
    )
