"""The configuration of a run: plain dataclasses, checked once by `Config.check()`, read-only afterwards.

A field made with `fixed` defines the run: a work directory refuses to resume with another value. A field made with
`free` may change when a run resumes.
"""

import dataclasses
import json
import types
import typing

from bnext_jax.errors import UserError, nearest

PRECISIONS = ("auto", "float32", "bfloat16", "float64")
LOSSES = ("product_of_means", "per_instance")


def _field(default, resume):
    if isinstance(default, dict | type):
        factory = default if isinstance(default, type) else default.copy
        return dataclasses.field(default_factory=factory, metadata={"resume": resume})
    return dataclasses.field(default=default, metadata={"resume": resume})


def fixed(default):
    """A field that may not change on resume. default: a value, or a class to be called."""
    return _field(default, False)


def free(default):
    """A field that may change on resume. default: a value, or a class to be called."""
    return _field(default, True)


class ReadOnly:
    """Refuses assignments once `_checked` is set."""

    def __setattr__(self, name, value):
        if getattr(self, "_checked", False):
            raise AttributeError(f"the configuration is read-only once checked; {name} cannot be set")
        super().__setattr__(name, value)


@dataclasses.dataclass
class ModelConfig(ReadOnly):
    """The network; its number of classes is the dataset's. The network's own config (bnext_jax.models) checks the values."""

    name: str = fixed("bnext_tiny")  # a key of bnext_jax.models.table.MODELS
    widths: tuple[int, ...] = fixed(())  # () = those of the name; "bnext" needs them
    stem_stride: int | None = fixed(None)  # 1 or 2; None = 2 with 1000 classes, 1 otherwise
    elm_attention: bool = fixed(True)  # False: the ablation without ELM attention
    info_recoupling: bool = fixed(True)  # False: the ablation without info-recoupling
    gate_bits: int | None = fixed(None)  # 4 or 8: the quantized edition's gates; None = float
    stem_bits: int | None = fixed(None)  # 8: the quantized edition's stem
    classifier_bits: int | None = fixed(None)  # 8: the quantized edition's classifier
    extra: dict = fixed(dict)  # further arguments of the network's class (the real-valued teachers' depths, stages)

    def arguments(self):
        """Keyword arguments for create_model: only those that differ from the defaults, so that any network takes them."""
        chosen = dict(self.extra)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("name", "extra") and value != field.default:
                chosen[field.name] = value
        return chosen


@dataclasses.dataclass
class DataConfig(ReadOnly):
    """The dataset and its transforms (bnext_jax.data)."""

    name: str = fixed("digits")  # "digits", or a TFDS classification dataset: "cifar10", "cifar100", ...
    directory: str = free("")  # where TFDS keeps prepared datasets; "" = its default, ~/tensorflow_datasets
    train_split: str = fixed("train")  # split to train on, in TFDS's syntax
    eval_split: str = free("test")  # split to evaluate on
    train_transform: str = fixed("")  # operations joined by "|", see bnext_jax.data.augment.transforms
    eval_transform: str = free("")  # the same, of evaluation
    mean: tuple[float, ...] = fixed((0.485, 0.456, 0.406))  # of pixels scaled to [0, 1], per channel
    std: tuple[float, ...] = fixed((0.229, 0.224, 0.225))  # likewise
    threads: int = free(4)  # reading and decoding, per process
    workers: int = free(0)  # extra processes for decoding; 0 = threads alone
    undecodable_share: float = free(0.001)  # of an epoch's images that may be replaced by others because they cannot be decoded


@dataclasses.dataclass
class OptimizerConfig(ReadOnly):
    """AdamW with two weight-decay groups, and the per-epoch learning rate (SPEC section 3)."""

    learning_rate: float = fixed(1e-3)  # at the end of the warm-up
    warmup_epochs: int = fixed(5)  # in which the learning rate rises, linearly
    warmup_rate: float = fixed(1e-5)  # learning rate of epoch 0
    final_rate: float = fixed(1e-7)  # what the cosine would reach at epoch `epochs + warmup_epochs`
    decay_weights: float = fixed(1e-8)  # on parameters with four dimensions in the PyTorch state dict
    decay_rest: float = fixed(1e-3)  # on the others
    beta1: float = fixed(0.9)  # decay of the first moment
    beta2: float = fixed(0.999)  # decay of the second moment
    epsilon: float = fixed(1e-8)  # added to the second moment's root
    clip_norm: float = fixed(5.0)  # global gradient norm


@dataclasses.dataclass
class TemperatureConfig(ReadOnly):
    """The annealing of latent weights. T = decay^epoch; or, for short runs, exact signs from a share of the run on."""

    decay: float = fixed(0.9)  # factor per epoch
    exact_from: float | None = fixed(None)  # in (0, 1): T = 1e-7^(epoch / (share * epochs)), and 0 from that share on


@dataclasses.dataclass
class DistillConfig(ReadOnly):
    """Knowledge distillation. Without a main teacher the loss is cross-entropy with the labels."""

    # TAG: one of bnext_jax.distill.roster; its file's checksum is checked
    main: str = fixed("")  # the main teacher: a work directory, a PyTorch file, or TAG=FILE
    assistants: tuple[str, ...] = fixed(())  # in the order of the schedule; may repeat the main one
    measure: bool = free(False)  # evaluate each teacher on the evaluation split before the first step
    form: str = fixed("product_of_means")  # or "per_instance"; with one teacher both are half its cross-entropy
    precision: str = fixed("auto")  # of the teachers' forward; "auto" = that of the student

    def teacher_names(self):
        """The teachers' names, the main one first, each once; [] without distillation."""
        return list(dict.fromkeys(filter(None, (self.main, *self.assistants))))


@dataclasses.dataclass
class CheckpointConfig(ReadOnly):
    """What is saved, and when."""

    every_steps: int = free(0)  # 0 = at the end of each epoch; otherwise also every so many steps
    keep_latest: int = free(2)  # newest checkpoints that are kept
    keep_best: int = free(1)  # by top-1


@dataclasses.dataclass
class Config(ReadOnly):
    """A whole run."""

    model: ModelConfig = fixed(ModelConfig)
    data: DataConfig = fixed(DataConfig)
    optimizer: OptimizerConfig = fixed(OptimizerConfig)
    temperature: TemperatureConfig = fixed(TemperatureConfig)
    distill: DistillConfig = fixed(DistillConfig)
    checkpoint: CheckpointConfig = free(CheckpointConfig)
    init: str = fixed("")  # work directory or PyTorch file whose weights the run starts from (fine-tuning); "" = fresh ones
    init_new_head: bool = fixed(False)  # start with a fresh classifier where that of `init` knows another number of classes
    epochs: int = fixed(512)  # length of the run
    batch_size: int = fixed(512)  # global, over all processes and devices
    eval_batch_size: int = free(512)  # global; the last batch is padded and the padding masked
    batch_norm_group: int | None = fixed(None)  # examples that share batch statistics; None = the whole batch
    accumulate: int = free(1)  # pieces that each batch is computed in, one after another, for less memory; the result stays the same
    mesh: str = free("")  # "data=4,shard=2": the state is split over the 2 devices of each shard axis; "" = whole on each device
    precision: str = fixed("auto")  # of activations; "auto" = bfloat16 on TPU, float32 elsewhere
    seed: int = fixed(0)  # of initialisation, order and augmentation
    eval_every_epochs: int = free(1)  # epochs between evaluations
    stop_at_step: int = free(0)  # stop there, with a checkpoint; 0 = at the end of the run
    tensorboard: bool = free(True)  # write TensorBoard files beside metrics.jsonl
    watch_layers: bool = free(False)  # log the share of +1 and the flip ratio of each layer
    profile_at_step: int = free(0)  # record XLA's profile of a few steps from this one on, in WORKDIR/profile; 0 = none

    def check(self):
        """Checks every value that needs neither data nor devices, then makes the configuration read-only. Returns it.

        Raises:
          UserError: a value that cannot be, named with its field.
        """
        _check_types(self, "config.")
        self._check_model()
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "eval_batch_size": self.eval_batch_size,
                    "eval_every_epochs": self.eval_every_epochs, "optimizer.learning_rate": self.optimizer.learning_rate,
                    "optimizer.clip_norm": self.optimizer.clip_norm, "checkpoint.keep_latest": self.checkpoint.keep_latest,
                    "data.threads": self.data.threads, "accumulate": self.accumulate}  # fmt: skip
        for name, value in positive.items():
            if value <= 0:
                raise UserError(f"config.{name} is {value}; it must be positive")
        for name, value in (("seed", self.seed), ("data.workers", self.data.workers)):
            if value < 0:
                raise UserError(f"config.{name} is {value}; it must be 0 or more")
        if not 0 <= self.data.undecodable_share < 1:
            raise UserError(f"config.data.undecodable_share is {self.data.undecodable_share}; it is a share of an epoch, in [0, 1)")
        group = self.batch_norm_group
        if group is not None and (group <= 0 or self.batch_size % group):
            raise UserError(f"config.batch_size {self.batch_size} does not divide into groups of config.batch_norm_group {group}")
        for name, value in (("precision", self.precision), ("distill.precision", self.distill.precision)):
            if value not in PRECISIONS:
                raise UserError(f"config.{name} is {value!r}; one of: {', '.join(PRECISIONS)}")
        if self.init_new_head and not self.init:
            raise UserError("config.init_new_head is set without config.init; name the network to start from, or leave it out")
        if self.distill.form not in LOSSES:
            raise UserError(f"config.distill.form is {self.distill.form!r}; one of: {', '.join(LOSSES)}")
        if self.distill.assistants and not self.distill.main:
            raise UserError("config.distill.assistants are given without config.distill.main; name the main teacher too")
        share = self.temperature.exact_from
        if share is not None and not 0 < share < 1:
            raise UserError(f"config.temperature.exact_from is {share}; it is a share of the run, between 0 and 1")
        if share is not None and share * self.epochs > self.epochs - 1:
            raise UserError(
                f"config.temperature.exact_from {share} leaves no whole epoch of {self.epochs} with exact signs; choose a smaller share"
            )
        if not 0 < self.temperature.decay <= 1:
            raise UserError(f"config.temperature.decay is {self.temperature.decay}; it must lie in (0, 1]")
        if len(self.data.mean) != 3 or len(self.data.std) != 3 or min(self.data.std) <= 0:
            raise UserError("config.data.mean and config.data.std need three numbers each, those of std positive")
        for part in (self, *(v for v in vars(self).values() if isinstance(v, ReadOnly))):
            object.__setattr__(part, "_checked", True)
        return self

    def _check_model(self):
        from bnext_jax.models.table import MODELS, model_config  # here, so that help on fields starts without JAX

        if self.model.name not in MODELS:
            raise UserError(f"config.model.name is {self.model.name!r}{nearest(self.model.name, MODELS)}; one of: {', '.join(MODELS)}")
        try:
            model_config(self.model.name, **self.model.arguments())
        except UserError as error:
            raise UserError(f"config.model.{error}" if str(error).split()[0] in vars(self.model) else f"config.model: {error}") from error


def _optional(kind):
    return isinstance(kind, types.UnionType) and type(None) in typing.get_args(kind)


def _check_types(part, prefix):
    """Raises UserError for a field that is None although its type does not allow it."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            _check_types(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple) and None in value:
            raise UserError(f"{prefix}{field.name} is {value}; it holds no None")
        elif value is None and not _optional(field.type):
            raise UserError(f"{prefix}{field.name} is None; it needs a value ({getattr(field.type, '__name__', field.type)})")


def to_json(config):
    """The configuration as plain JSON data (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flat_json(config):
    """{"config.data.name": JSON value}: every field under its dotted name."""

    def walk(values, prefix):
        for name, value in values.items():
            if isinstance(value, dict) and f"{prefix}{name}" != "config.model.extra":
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(to_json(config), "config."))


def from_json(values, cls=Config):
    """The configuration that to_json made plain, unchecked; a field that an older version did not have gets its default.

    cls: the dataclass of the part at hand.
    """
    parts = {}
    for field in dataclasses.fields(cls):
        if field.name not in values:
            continue
        value = values[field.name]
        if dataclasses.is_dataclass(field.type):
            parts[field.name] = from_json(value, field.type)
        else:
            parts[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**parts)


def changed_fields(saved, config):
    """Names of the fields that may not change on resume and differ between `saved` (from to_json) and `config`, with both values."""

    def walk(part, old, prefix):
        for field in dataclasses.fields(part):
            value, before = getattr(part, field.name), getattr(old, field.name)
            if dataclasses.is_dataclass(value):
                yield from walk(value, before, f"{prefix}{field.name}.")
            elif not field.metadata["resume"] and json.dumps(value) != json.dumps(before):
                yield f"{prefix}{field.name} (was {before!r}, now {value!r})"

    return list(walk(config, from_json(saved), "config."))
