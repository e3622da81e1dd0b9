"""The configuration of a run: plain dataclasses. `Config.check()` checks them once; afterwards they are read-only.

`fixed` makes a field that defines the run: its value may not change when the run resumes. `free` makes a field that may change.
The comment on each field's line is what `bnext train --config=FILE --help` prints.
"""

import dataclasses
import typing
from typing import Any, Self

from bnext_jax.bounds import check_loss, check_numbers, check_optimizer, check_temperature
from bnext_jax.errors import UserError, nearest

PRECISIONS = ("auto", "float32", "bfloat16", "float64")
ORIENTATIONS = ("stored", "upright")
LOSSES = ("product_of_means", "per_instance", "teacher", "labels")
OPTIMIZERS = ("adamw", "adam", "radam", "sgd")
SCHEDULES = ("bnext", "cosine", "linear", "steps")


def _field(default: Any, resume: bool) -> Any:
    if isinstance(default, dict | type):
        factory = default if isinstance(default, type) else default.copy
        return dataclasses.field(default_factory=factory, metadata={"resume": resume})
    return dataclasses.field(default=default, metadata={"resume": resume})


def fixed(default: Any) -> Any:
    """Makes a field that may not change when a run resumes. `default` is the default value, or a class that makes it."""
    return _field(default, False)


def free(default: Any) -> Any:
    """Makes a field that may change when a run resumes. `default`: see `fixed`."""
    return _field(default, True)


class ReadOnly:
    """Rejects assignments after `Config.check()`, which sets `_checked`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_checked", False):
            raise AttributeError(f"the configuration is read-only once checked; {name} cannot be set")
        super().__setattr__(name, value)


@dataclasses.dataclass
class ModelConfig(ReadOnly):
    """The network. Its number of classes is the dataset's. The network's own config (bnext_jax.models) checks the values."""

    name: str = fixed("bnext_tiny")  # bnext_tiny, bnext_small, bnext_middle, bnext_large, bnext18, or another name in bnext_jax.MODELS
    widths: tuple[int, ...] = fixed(())  # channels of the stem, then of each block; () = those of the named network; "bnext" needs them
    stem_stride: int | None = fixed(None)  # stride of the stem, 1 or 2; None = 2 with 1000 classes, 1 otherwise
    elm_attention: bool = fixed(True)  # False = ablation without ELM attention
    info_recoupling: bool = fixed(True)  # False = ablation without info-recoupling
    gate_bits: int | None = fixed(None)  # bits of the gates: 4 or 8 in the quantized edition; None = not quantized
    stem_bits: int | None = fixed(None)  # bits of the stem: 8 in the quantized edition; None = not quantized
    classifier_bits: int | None = fixed(None)  # bits of the classifier: 8 in the quantized edition; None = not quantized
    extra: dict = fixed(dict)  # more arguments of the network, for example the depths or stages of a real-valued teacher

    def arguments(self) -> dict[str, Any]:
        """Returns keyword arguments for create_model: only values that differ from the defaults, so that every network accepts them."""
        chosen = dict(self.extra)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("name", "extra") and value != field.default:
                chosen[field.name] = value
        return chosen


@dataclasses.dataclass
class DataConfig(ReadOnly):
    """The dataset and its transforms (bnext_jax.data)."""

    name: str = fixed("digits")  # "digits", a TFDS classification dataset ("cifar10", ...), or a dataset that `prepare --source` wrote
    directory: str = free("")  # folder of the prepared datasets, may be gs://...; "" = $TFDS_DATA_DIR or ~/tensorflow_datasets
    train_split: str = fixed("train")  # split to train on, in TFDS syntax: "train", "train[:90%]"
    eval_split: str = free("test")  # split to evaluate on, in TFDS syntax
    train_transform: str = fixed("")  # operations on training images, joined by "|"; see bnext_jax/data/augment/transforms.py
    eval_transform: str = free("")  # operations on evaluation images, in the same form
    mean: tuple[float, ...] = fixed((0.485, 0.456, 0.406))  # mean of each channel, for pixels scaled to [0, 1]
    std: tuple[float, ...] = fixed((0.229, 0.224, 0.225))  # standard deviation of each channel, for pixels scaled to [0, 1]
    orientation: str = fixed("stored")  # of the images: "stored" = their pixels as in the file; "upright" = turned as their EXIF data say
    threads: int = free(4)  # threads that read and decode images, per process, or per worker where `workers` > 0
    workers: int = free(0)  # extra processes that decode images, per process of the run; 0 = threads alone
    undecodable_share: float = free(0.001)  # largest share of an epoch's images that may be undecodable; others replace them


@dataclasses.dataclass
class OptimizerConfig(ReadOnly):
    """The optimizer with two weight-decay groups (training.optimizers), and the schedule of its learning rate (training.schedules)."""

    name: str = fixed("adamw")  # adamw (decoupled weight decay); adam, radam or sgd (weight decay is added to the gradients, as L2)
    learning_rate: float = fixed(1e-3)  # learning rate at the end of the warm-up
    schedule: str = fixed("bnext")  # of the learning rate after the warm-up: bnext (an unfinished cosine), cosine, linear or steps
    per_step: bool = fixed(False)  # True = the learning rate changes every step; False = once an epoch
    warmup_epochs: int = fixed(5)  # epochs of linear warm-up
    warmup_rate: float = fixed(1e-5)  # learning rate at the beginning of the warm-up
    final_rate: float = fixed(1e-7)  # rate at the end of the schedule; the schedule bnext would reach it at epoch `epochs + warmup_epochs`
    schedule_epochs: int | None = fixed(None)  # epoch at which cosine and linear end; None = the run's end
    ahead: int = fixed(0)  # epochs that linear runs ahead; 1 as published for Bi-Real Net and ReActNet: the last epoch has final_rate
    step_epochs: tuple[int, ...] = fixed(())  # epochs at which the schedule steps multiplies the learning rate by step_factor
    step_factor: float = fixed(0.1)  # factor of the schedule steps
    decay_weights: float = fixed(1e-8)  # weight decay where the PyTorch state dict has four dimensions: convolutions, shift, scale
    decay_rest: float = fixed(1e-3)  # weight decay of all other parameters
    decay_until: int | None = fixed(None)  # epoch from which there is no weight decay; None = there always is
    beta1: float = fixed(0.9)  # decay rate of the first moment; momentum of sgd
    beta2: float = fixed(0.999)  # decay rate of the second moment
    epsilon: float = fixed(1e-8)  # added to the square root of the second moment
    clip_norm: float | None = fixed(5.0)  # largest global norm of the gradients; larger gradients are scaled down to it; None = no limit


@dataclasses.dataclass
class TemperatureConfig(ReadOnly):
    """The temperature T of latent weights: decay^epoch, or a schedule for short runs. For a network without one, check() puts None here."""

    decay: float = fixed(0.9)  # T is multiplied by this after every epoch; not used with exact_from, nor by a network without T
    exact_from: float | None = fixed(None)  # s in [0, 1): T = 1e-7^(epoch / (s * epochs)), then 0 (exact signs) from epoch s * epochs on


@dataclasses.dataclass
class DistillConfig(ReadOnly):
    """Knowledge distillation (distill.losses). Without a main teacher the loss is the cross-entropy with the labels."""

    # TAG is a key of bnext_jax.distill.roster.ROSTER; the checksum of FILE is checked
    main: str = fixed("")  # main teacher: a work directory, a PyTorch file, or TAG=FILE (tags: bnext_jax/distill/roster.py); "" = none
    assistants: tuple[str, ...] = fixed(())  # assistants, one after another over equal shares of the run; may include the main teacher
    measure: bool = free(False)  # evaluate every teacher on the evaluation split before the first step
    form: str = fixed("product_of_means")  # BNext's: product_of_means, or per_instance (the paper's); teacher (alone); labels (and teacher)
    kl_weight: float = fixed(1.0)  # form labels: weight of the divergence KL(teacher || student)
    attention_weight: float = fixed(0.0)  # form labels: weight of the difference of the attention maps of all blocks
    precision: str = fixed("auto")  # precision of the teachers' forward pass; "auto" = the student's

    def teacher_names(self) -> list[str]:
        """Returns each teacher's name once, the main teacher first. [] without distillation."""
        return list(dict.fromkeys(filter(None, (self.main, *self.assistants))))


@dataclasses.dataclass
class CheckpointConfig(ReadOnly):
    """What is saved, and when."""

    every_steps: int = free(0)  # save a checkpoint every so many steps, and at the end of each epoch; 0 = at the end of each epoch only
    keep_latest: int = free(2)  # number of newest checkpoints to keep
    keep_best: int = free(1)  # number of checkpoints with the highest top-1 to keep


@dataclasses.dataclass
class Config(ReadOnly):
    """The configuration of a whole run."""

    model: ModelConfig = fixed(ModelConfig)
    data: DataConfig = fixed(DataConfig)
    optimizer: OptimizerConfig = fixed(OptimizerConfig)
    temperature: TemperatureConfig | None = fixed(TemperatureConfig)  # None = the network takes no temperature
    distill: DistillConfig = fixed(DistillConfig)
    checkpoint: CheckpointConfig = free(CheckpointConfig)
    init: str = fixed("")  # fine-tuning: work directory or PyTorch file with the initial weights; "" = random initial weights
    init_new_head: bool = fixed(False)  # start with a new classifier if the network of `init` has another number of classes
    init_fresh_latent: bool = fixed(False)  # do not take the latent weights of `init`: they start at random
    label_smoothing: float = fixed(0.0)  # share of each label that is spread over all classes, in the cross-entropy with the labels
    epochs: int = fixed(512)  # length of the run, in epochs
    batch_size: int = fixed(512)  # images per step, over all processes and devices
    eval_batch_size: int = free(512)  # images per evaluation step, over all devices; padding of the last batch does not count
    batch_norm_group: int | None = fixed(None)  # images that share batch-norm statistics; None = the whole batch
    accumulate: int = free(1)  # compute each batch in so many pieces, one after another, to save memory; the result is the same
    mesh: str = free("")  # "data=4,shard=2": 4 groups of 2 devices, each group splits the training state; "" = all of it on each device
    precision: str = fixed("auto")  # of activations: float32, bfloat16, float64, or "auto" = bfloat16 on TPU, float32 elsewhere
    seed: int = fixed(0)  # random seed of initialization, image order and augmentation
    eval_every_epochs: int = free(1)  # number of epochs between evaluations
    stop_at_step: int = free(0)  # stop when the run has done so many steps, with a checkpoint; 0 = at the end of the run
    tensorboard: bool = free(True)  # write TensorBoard files next to metrics.jsonl
    watch_layers: bool = free(False)  # log each layer's flip ratio and its share of weights with the sign +1
    profile_at_step: int = free(0)  # record an XLA profile of five steps, starting here, in WORKDIR/profile; 0 = no profile

    def check(self) -> Self:
        """Checks every value that can be checked without data and devices, makes the configuration read-only, and returns it.

        Raises:
          UserError: an invalid value; the message names its field.
        """
        _check_types(self, "config.")
        check_numbers(self)
        self._check_model()
        positive: dict[str, Any] = {"epochs": self.epochs, "batch_size": self.batch_size, "eval_batch_size": self.eval_batch_size,
                    "eval_every_epochs": self.eval_every_epochs, "checkpoint.keep_latest": self.checkpoint.keep_latest,
                    "data.threads": self.data.threads, "accumulate": self.accumulate}  # fmt: skip
        for name, value in positive.items():
            if value <= 0:
                raise UserError(f"config.{name} is {value}; it must be positive")
        if not 0 <= self.data.undecodable_share < 1:
            raise UserError(f"config.data.undecodable_share is {self.data.undecodable_share}; it is a share of an epoch, in [0, 1)")
        group = self.batch_norm_group
        if group is not None and (group <= 0 or self.batch_size % group):
            raise UserError(f"config.batch_size {self.batch_size} does not divide into groups of config.batch_norm_group {group}")
        chosen = (("precision", self.precision, PRECISIONS), ("distill.precision", self.distill.precision, PRECISIONS),
                  ("distill.form", self.distill.form, LOSSES), ("data.orientation", self.data.orientation, ORIENTATIONS),
                  ("optimizer.name", self.optimizer.name, OPTIMIZERS),
                  ("optimizer.schedule", self.optimizer.schedule, SCHEDULES))  # fmt: skip
        for name, value, known in chosen:
            if value not in known:
                raise UserError(f"config.{name} is {value!r}; one of: {', '.join(known)}")
        check_optimizer(self.optimizer, self.epochs)
        check_loss(self.distill, self.label_smoothing)
        for name in ("init_new_head", "init_fresh_latent"):
            if getattr(self, name) and not self.init:
                raise UserError(f"config.{name} is set without config.init; name the network to start from, or leave it out")
        self._check_temperature()
        if len(self.data.mean) != 3 or len(self.data.std) != 3 or min(self.data.std) <= 0:
            raise UserError("config.data.mean and config.data.std need three numbers each, those of std positive")
        for part in (self, *(v for v in vars(self).values() if isinstance(v, ReadOnly))):
            object.__setattr__(part, "_checked", True)
        return self

    def _check_temperature(self) -> None:
        from bnext_jax.models.table import takes_temperature  # see _check_model

        takes = takes_temperature(self.model.name)
        check_temperature(self.temperature, self.model.name, takes, self.epochs)
        if not takes:
            object.__setattr__(self, "temperature", None)

    def _check_model(self) -> None:
        from bnext_jax.models.table import MODELS, model_config  # imports JAX, which the help on fields does not need

        if self.model.name not in MODELS:
            raise UserError(f"config.model.name is {self.model.name!r}{nearest(self.model.name, MODELS)}; one of: {', '.join(MODELS)}")
        try:
            model_config(self.model.name, **self.model.arguments())
        except UserError as error:
            raise UserError(f"config.model.{error}" if str(error).split()[0] in vars(self.model) else f"config.model: {error}") from error


def _check_types(part: Any, prefix: str) -> None:
    """Raises UserError for a field that is None, or a tuple that contains None, although its type does not allow it."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            _check_types(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple) and None in value:
            raise UserError(f"{prefix}{field.name} is {value}; it may not contain None")
        elif value is None and type(None) not in typing.get_args(field.type):
            raise UserError(f"{prefix}{field.name} is None; it needs a value ({getattr(field.type, '__name__', field.type)})")
