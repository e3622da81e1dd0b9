"""The training loop: claims the work directory, restores a checkpoint, then trains, evaluates, logs and saves.

`train` shows the order of a run, `_epochs` the order of a step.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from bnext_jax.config import Config
from bnext_jax.errors import MachineLost, Unreachable, UserError, one_line
from bnext_jax.host.progress import Progress
from bnext_jax.io import checkpoint, compiled
from bnext_jax.models.base import told_temperature
from bnext_jax.nn.network import project
from bnext_jax.training import cluster, preemption, records, watch
from bnext_jax.training.checkpoints import Checkpoints
from bnext_jax.training.run import Run
from bnext_jax.training.workdir import Claim, check_shared

log = logging.getLogger(__name__)
NOT_FINITE_FILE = "not_finite.json"


@contextlib.contextmanager
def _losses_told(begun: bool) -> Iterator[None]:
    """Turns errors that mean "start again" into MachineLost.

    If several processes run together, a JAX runtime error means that another process ended. After the run has begun, an Unreachable bucket
    may come back; before, it is more likely a mistake in the command.
    """
    try:
        yield
    except Unreachable as error:
        if not begun:
            raise
        raise MachineLost(f"{error}; the run has lost its bucket: start it again") from error
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise MachineLost(f"another process of the run ended ({one_line(error, 160)}); start all processes again") from error


def train(config: Config, workdir: os.PathLike | str) -> dict[str, Any]:
    """Trains or resumes a run, in a single process or as one of several processes (see cluster.join).

    Args:
      config: a checked configuration.
      workdir: folder for checkpoints, logs and the configuration.
    Returns:
      A dict with these keys:

      - top1: top-1 accuracy of the final evaluation, in percent.
      - top5: top-5 accuracy of the final evaluation, in percent.
      - loss: mean cross-entropy of the final evaluation, in nats.
      - examples: number of images in the final evaluation.
      - steps: number of finished steps of the run.
      - epochs: number of finished epochs of the run.
      - temperature: temperature of the last step, if the network takes one.
      - binary: whether every binary weight is exactly +-1.
      - images: number of images that this call trained on.
      - train_seconds: time of this call's steps and of waiting for data.
      - examples_per_second: images / train_seconds.
      - finished: whether the run reached its last step.
      - workdir: the work directory.
      - teachers: accuracies of the teachers, only with config.distill.measure.

      After a stop signal (SIGTERM) instead: {"steps", "finished": False, "workdir", "exit_code": 75}. All finished steps are saved then.
    Raises:
      UserError: a check fails, a loss is not finite, or a checkpoint cannot be written. All processes raise it.
      MachineLost: another process of the run ended.

    Example:
      >>> from bnext_jax import recipes, train
      >>> result = train(recipes.digits_student("smoke").check(), "/tmp/smoke")
      >>> result["steps"], result["top1"]
    """
    with contextlib.ExitStack() as stack:
        claim = cluster.agree(lambda: stack.enter_context(Claim(workdir, config)))  # released also if another process fails
        folder = claim.folder
        compiled.keep_for_run(folder)
        with _losses_told(begun=False):
            run = cluster.agree(lambda: Run(config, folder))
            cluster.check_equal(cluster.agree(run.facts))
            cluster.agree(lambda: check_shared(folder, config))
            cluster.agree(run.overview)
        return _trained(run, claim)


def _trained(run: Run, claim: Claim) -> dict[str, Any]:
    """Trains or resumes a run in its claimed work directory. Returns the result of `train`."""
    config, folder, keep = run.config, run.folder, run.config.checkpoint
    with (
        preemption.Preemption() as stop,
        Checkpoints(folder, keep.keep_latest, keep.keep_best, claim.check) as checkpoints,
        _losses_told(begun=True),  # inside, so that Checkpoints.__exit__ sees MachineLost and does not wait
    ):
        run.done = start = _resume(run, checkpoints)
        last = min(run.total_steps, config.stop_at_step or run.total_steps)
        try:
            measured = {"teachers": run.measure_teachers(stop)} if config.distill.measure else {}
            with contextlib.closing(cluster.agree(lambda: records.Writer(folder, start, config.tensorboard))) as writer:
                seconds, final = _epochs(run, checkpoints, writer, start, last, stop)
            final = final or run.evaluate(stop)
        except preemption.Stopped:
            log.warning("told to stop after step %d of %d; run the same command again to resume", run.done, run.total_steps)
            return {"steps": run.done, "finished": False, "workdir": str(folder), "exit_code": preemption.EXIT_CODE}
    images = (run.done - start) * config.batch_size
    return {
        **final,
        "steps": run.done,
        "epochs": run.done // run.steps_per_epoch,
        **told_temperature(run.temperature),
        "binary": watch.is_binary(run.programs.network, run.variables, run.temperature),
        "images": images,
        "train_seconds": seconds,
        "examples_per_second": images / seconds if seconds else 0.0,
        "finished": run.done == run.total_steps,
        "workdir": str(folder),
        **measured,
    }


def _resume(run: Run, checkpoints: Checkpoints) -> int:
    """Loads the newest readable checkpoint into the run. Returns the number of finished steps."""
    # First, because with other classes no array would fit. In `agree`, because processes may see different lists.
    cluster.agree(lambda: run.check_dataset(checkpoint.describe(run.folder)) if checkpoints.steps() else None)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), run.state)
    restored = checkpoints.restore(abstract)
    if restored is None:
        return 0
    restored_state, metadata = restored
    run.temperature = metadata["temperature"]
    run.state = {**restored_state, "params": project(restored_state["params"], run.programs.network.bounds)}
    log.info("resuming %s at step %d of %d", run.folder, metadata["step"], run.total_steps)
    return metadata["step"]


def _epochs(
    run: Run, checkpoints: Checkpoints, writer: records.Writer, start: int, last: int, stop: preemption.Preemption
) -> tuple[float, dict[str, float] | None]:
    """Runs the steps start, ..., last - 1.

    After a stop signal it saves as soon as all processes have read the signal, which is after the same step in all of them.

    Returns:
      (seconds of steps and of waiting for data, evaluation after the last step or None).
    Raises:
      preemption.Stopped: a process received a stop signal; the checkpoint is saved.
    """
    config, every = run.config, run.config.checkpoint.every_steps
    feed = preemption.Feed(run.read(start, last), run.blank_batch, run.flag, stop)
    meter, binary = watch.Meter(), watch.BinaryWatch(run.programs.network, run.state["params"])
    clock, final = watch.Clock(), None

    def write(done, values):
        cluster.agree(lambda: writer.write(done, values))

    def save(done, top1=None):
        with clock.measure("checkpoint"):
            checkpoints.save(done, run.state, run.metadata(done), top1=top1)

    with Progress("train", last, start) as progress, records.Profile(run.folder, config.profile_at_step) as profile:
        for step in range(start, last):
            if step == start or step % run.steps_per_epoch == 0:
                with clock.measure("compile"):
                    cluster.agree(functools.partial(run.prepare_epoch, step // run.steps_per_epoch))
            with clock.measure("data_wait"):
                batch, flag = next(feed)
            profile.look(step)
            run.state, metrics = run.step(run.state, batch, flag, run.schedule.variables)
            run.done = done = step + 1
            epoch_ends, ends = done % run.steps_per_epoch == 0, done == last
            saves = epoch_ends or ends or (every > 0 and done % every == 0)
            _watch(run, meter, feed, step, metrics, whole=saves)  # a save needs to know that its own step is finite
            progress.step()

            if epoch_ends or ends:
                values = _epoch_values(run, meter, binary, step, clock.read())
                meter.reset()
                final = None
                if not meter.stop and (ends or (done // run.steps_per_epoch) % config.eval_every_epochs == 0):
                    try:
                        with clock.measure("evaluation"):
                            final = run.evaluate(stop)
                    except (UserError, preemption.Stopped):  # save the finished epoch, although its evaluation failed
                        write(done, values)
                        save(done)
                        checkpoints.wait()
                        raise
                    values |= {f"test_{name}": final[name] for name in ("top1", "top5", "loss")}
                write(done, {**values, **clock.parts("evaluation")})
                clock.reset()  # the save below counts for the next epoch: this epoch's line is already written
                save(done, final and final["top1"])
                _tell(progress, run, done, values)
            elif saves or meter.stop:
                save(done)
            if meter.stop:
                checkpoints.wait()
                raise preemption.Stopped
    return clock.total, final


def _watch(run: Run, meter: watch.Meter, feed: preemption.Feed, step: int, metrics: Mapping[str, jax.Array], whole: bool) -> None:
    """Takes the metrics of a step and checks those that it reads.

    Raises in all processes alike if the data of one process fail or if a loss or gradient is not finite.

    Args:
      run: the run.
      meter: sums the metrics; reads each step's metrics one step late.
      feed: the batches, which know of failed data.
      step: step index, from 0.
      metrics: the step's metrics, scalars on the devices.
      whole: read this step's own metrics too, not only those of the previous step.
    """
    try:
        meter.add(step, metrics)
        if whole or meter.stop:
            meter.read()
    except watch.NotFinite as error:
        feed.check(meter.stop)  # failed data go first: the blank batches that follow them can make the loss not finite
        path = run.folder / NOT_FINITE_FILE
        run.note_batch(path, error.step, error.values)
        raise UserError(f"{error}; the step's images are listed in {path}") from error
    feed.check(meter.stop)
    run.temperature = meter.last.get("temperature", run.temperature)
    run.faults.check(meter.undecodable)


def _epoch_values(run: Run, meter: watch.Meter, binary: watch.BinaryWatch, step: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Returns {name: number} for the log line of an epoch whose last finished step is `step`."""
    images = meter.steps * run.config.batch_size
    return {
        "epoch": step // run.steps_per_epoch + 1,
        "steps": meter.steps,  # steps that this line sums up; fewer than an epoch's after a resume within the epoch
        "train_loss": meter.loss / meter.steps,
        **{f"train_{name}": 100 * hits / images for name, hits in meter.top1().items()},
        **meter.norms(),
        "learning_rate": meter.last["learning_rate"],
        **told_temperature(run.temperature),
        **binary.look(run.variables, run.temperature, layers=run.config.watch_layers),
        "images_per_second": images / (seconds["step_seconds"] + seconds["data_wait_seconds"]),
        **seconds,
        "undecodable": meter.undecodable,  # number of replaced images
    }


def _tell(progress: Progress, run: Run, done: int, values: Mapping[str, Any]) -> None:
    """Logs one line about the epoch."""
    test = f", test top-1 {values['test_top1']:.2f} %" if "test_top1" in values else ""
    temperature = f", temperature {values['temperature']:.2g}" if "temperature" in values else ""
    progress.line(
        f"epoch {-(-done // run.steps_per_epoch)}/{run.config.epochs}, loss {values['train_loss']:.4f},"
        f" top-1 {values['train_top1']:.2f} %{test}{temperature}, {values['images_per_second']:.0f} images/s"
    )
