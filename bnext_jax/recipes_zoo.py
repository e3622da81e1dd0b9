"""The published recipes of the eight networks before BNext, as functions. The files configs/imagenet_*.py call them.

The values are those of docs/zoo.md. Where a source is silent, the docstring of the file in configs/ says what was chosen. All recipes
share the images' scaling and the evaluation (shorter side 256, central 224 pixels).

Forms with the name of a step, such as "step1", are trained one after another. Each names the work directory of the one before it.
The smoke forms train a small network with the same optimizer, schedule and loss on digits, in seconds. Those that need a teacher take the
smoke form of Real-to-Binary's step 0.
"""

import dataclasses
from typing import Any

from bnext_jax import config as c
from bnext_jax.recipes import check_form, digits

CROP = "random_resized_crop(224)|flip"
LIT = "random_resized_crop(224)|lighting(0.1)|flip"
RESNET34, RESNET50 = "resnet34.tv_in1k", "resnet50.tv_in1k"
REAL = {"binary_weights": False}
SMOKE_TEACHER = "runs/smoke_real_to_binary_step0"
SMOKE_RATES = {"sgd": 0.1}  # else 5e-3: a short run needs larger steps
MELIUSNETS = {"22": "meliusnet22", "29": "meliusnet29", "42": "meliusnet42", "59": "meliusnet59", "a": "meliusnet_a", "b": "meliusnet_b",
              "c": "meliusnet_c"}  # fmt: skip
MULTIPLIERS = {"1.0x": 1.0, "0.5x": 0.5, "0.75x": 0.75, "2.0x": 2.0}


def _imagenet(name: str, optimizer: dict[str, Any], *, epochs: int, batch: int, train: str = CROP, **more: Any) -> c.Config:
    """A network on ImageNet-1k. Nothing is warmed up, clipped or decayed unless `optimizer` says so; the last learning rate is 0."""
    plain = {"warmup_epochs": 0, "final_rate": 0.0, "decay_weights": 0.0, "decay_rest": 0.0, "clip_norm": None}
    return c.Config(
        model=c.ModelConfig(name=name),
        data=c.DataConfig(
            name="imagenet2012", eval_split="validation", train_transform=train, eval_transform="resize(256)|center_crop(224)", workers=4
        ),
        optimizer=c.OptimizerConfig(**{**plain, **optimizer}),
        epochs=epochs,
        batch_size=batch,
        batch_norm_group=64,
        **more,
    )


def _taught(tag: str, form: str = "teacher", **weights: float) -> c.DistillConfig:
    """Distillation from one teacher: a tag of distill.roster, whose file has the tag's name, or the work directory of a run."""
    main = tag if "/" in tag else f"{tag}={tag}.safetensors"
    return c.DistillConfig(main=main, form=form, measure="/" not in tag, precision="bfloat16", **weights)  # type: ignore[arg-type]


def bnn18(form: str = "labels") -> c.Config:
    """Makes the configuration of BNN on ResNet-18. `form`: "labels" or "smoke". Raises ValueError for another form."""
    check_form("imagenet_bnn18", form, ("labels", "smoke"))
    sgd = {"name": "sgd", "learning_rate": 0.1, "schedule": "steps", "step_epochs": (30, 60, 90), "decay_until": 60}
    config = _imagenet("bnn18", {**sgd, "decay_weights": 1e-4, "decay_rest": 1e-4}, epochs=100, batch=256)
    return _smoke(config, {"depth": 1}, rate=3.0) if form == "smoke" else config


def xnornet18(form: str = "labels") -> c.Config:
    """Makes the configuration of XNOR-Net on ResNet-18. `form`: "labels" or "smoke". Raises ValueError for another form."""
    check_form("imagenet_xnornet18", form, ("labels", "smoke"))
    adam = {"name": "adam", "learning_rate": 1e-3, "schedule": "steps", "step_epochs": (20, 35, 45, 50)}
    config = _imagenet("xnornet18", adam, epochs=58, batch=256)
    return _smoke(config, {"depth": 1}, rate=1e-2) if form == "smoke" else config


def birealnet18(form: str = "labels") -> c.Config:
    """Makes the configuration of Bi-Real-18. `form`: "labels" or "smoke". Raises ValueError for another form."""
    check_form("imagenet_birealnet18", form, ("labels", "smoke"))
    adam = {"name": "adam", "learning_rate": 1e-3, "schedule": "linear", "ahead": 1}
    config = _imagenet("birealnet18", adam, epochs=256, batch=512, train=LIT, label_smoothing=0.1)
    return _smoke(config, {"depth": 1}) if form == "smoke" else config


def reactnet(name: str, form: str = "step2") -> c.Config:
    """Makes the configuration of a step of ReActNet: real weights in step 1, binary weights in step 2, which starts from step 1.

    Args:
      name: "reactnet18" or "reactnet_a".
      form: "step1", "step2", or "smoke_step1", "smoke_step2".
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: another form.
    """
    check_form(f"imagenet_{name}", form, ("step1", "step2", "smoke_step1", "smoke_step2"))
    rate, batch = {"reactnet18": (2.5e-3, 512), "reactnet_a": (1.25e-3, 256)}[name]
    adam = {"name": "adam", "learning_rate": rate, "schedule": "linear", "ahead": 1}
    first, smoke = form.endswith("step1"), form.startswith("smoke")
    config = _imagenet(
        name, {**adam, "decay_weights": 1e-5 if first else 0.0}, epochs=128, batch=batch, train=LIT, distill=_taught(RESNET34)
    )
    config.model.extra = dict(REAL) if first else {}
    if not first:
        config.init = f"runs/{'smoke_' if smoke else ''}{name}_step1"
    if not smoke:
        return config
    config.distill = c.DistillConfig(main=SMOKE_TEACHER, form="teacher")
    small: dict[str, Any] = {"depth": 1} if name == "reactnet18" else {"widths": (16, 32, 64, 64)}
    return _smoke(config, small, epochs=8 if name == "reactnet18" else 5)


def real_to_binary(form: str = "step3") -> c.Config:
    """Makes the configuration of a step of Real-to-Binary, as larq's code trains it.

    Args:
      form: "step0" (a real-valued ResNet-18, the teacher of step 1), "step1" (real weights, tanh), "step2" (real weights, binary
          activations), "step3" (binary, starts from step 2), each but step 0 with the step before as its teacher; or "smoke_step0" to
          "smoke_step3".
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: another form.
    """
    steps = tuple(f"step{i}" for i in range(4))
    check_form("imagenet_real_to_binary", form, (*steps, *(f"smoke_{step}" for step in steps)))
    smoke, step = form.startswith("smoke"), int(form[-1])
    before = f"runs/{'smoke_' if smoke else ''}real_to_binary_step{step - 1}"
    if step == 0:
        sgd = {"name": "sgd", "learning_rate": 0.1, "schedule": "cosine", "warmup_epochs": 5, "warmup_rate": 0.0, "per_step": True}
        config = _imagenet("resnet18", {**sgd, "decay_weights": 1e-4, "decay_rest": 1e-4}, epochs=100, batch=512)
    else:
        adam = {"name": "adam", "schedule": "steps", "step_epochs": (40, 60, 70), "step_factor": 0.3, "warmup_epochs": 5,
                "warmup_rate": 0.0, "per_step": True}  # fmt: skip
        adam |= {"learning_rate": 2e-4} if step == 3 else {"learning_rate": 1e-3, "decay_weights": 2e-5}  # an L2 term of 1e-5
        weights = {"kl_weight": 0.8} if step == 3 else {"kl_weight": 3.0, "attention_weight": 30.0}
        config = _imagenet("real_to_binary", adam, epochs=75, batch=256, distill=_taught(before, "labels", **weights))
        extra: dict[int, dict[str, Any]] = {1: {**REAL, "activation": "tanh"}, 2: {**REAL}, 3: {}}
        config.model.extra = extra[step]
        config.init = before if step == 3 else ""
    small: dict[str, Any] = {"depth": 1} if step else {"depths": (1, 1, 1)}
    return _smoke(config, small, epochs=(8, 10, 12, 14)[step]) if smoke else config


def meliusnet(form: str = "22") -> c.Config:
    """Makes the configuration of a MeliusNet. `form`: a key of MELIUSNETS, or "smoke". Raises ValueError for another form."""
    check_form("imagenet_meliusnet", form, (*MELIUSNETS, "smoke"))
    radam = {"name": "radam", "learning_rate": 2e-3, "schedule": "cosine"}
    config = _imagenet(MELIUSNETS.get(form, "meliusnet"), radam, epochs=120, batch=64)
    small = {"blocks": (1, 1, 1), "transitions": (32, 32), "growth": 16, "stem_width": 16}
    return _smoke(config, small, rate=1e-2) if form == "smoke" else config


def pokebnn(form: str = "1.0x") -> c.Config:
    """Makes the configuration of a PokeBNN. `form`: a key of MULTIPLIERS, or "smoke". Raises ValueError for another form."""
    check_form("imagenet_pokebnn", form, (*MULTIPLIERS, "smoke"))
    adam = {"name": "adam", "learning_rate": 6.4e-4, "beta2": 0.99, "schedule": "linear", "schedule_epochs": 750, "per_step": True,
            "decay_weights": 5e-5}  # fmt: skip  # half of 5e-5 times the sum of squares is in the loss
    config = _imagenet("pokebnn", adam, epochs=800, batch=8192, distill=_taught(RESNET50), precision="bfloat16")
    config.model.extra = {"multiplier": MULTIPLIERS[form]} if MULTIPLIERS.get(form, 1.0) != 1.0 else {}
    if form != "smoke":
        return config
    config.distill, config.precision = c.DistillConfig(main=SMOKE_TEACHER, form="teacher"), "auto"
    small = {"multiplier": 0.25, "depths": (1, 1, 1), "widths": (32, 64, 128), "stem_stride": 2, "bounds_from_step": 20}
    return _smoke(config, {**small, "quantized_from_epoch": 1}, epochs=5)


def shortened(config: c.Config, epochs: int) -> c.OptimizerConfig:
    """The optimizer of a recipe for a run of so many epochs.

    All epochs of its schedule move in proportion and are rounded: a step ahead of one epoch disappears, and two steps that meet become one.
    """
    share, old = epochs / config.epochs, config.optimizer
    return dataclasses.replace(
        old,
        warmup_epochs=round(share * old.warmup_epochs),
        ahead=round(share * old.ahead),
        step_epochs=tuple(sorted({max(1, round(share * epoch)) for epoch in old.step_epochs})),
        schedule_epochs=old.schedule_epochs and round(share * old.schedule_epochs),
        decay_until=old.decay_until and max(1, round(share * old.decay_until)),
    )


def _smoke(config: c.Config, small: dict[str, Any], *, epochs: int = 8, rate: float | None = None) -> c.Config:
    """Turns a recipe into a run of seconds: a small network on digits of 12x12 pixels, its schedule shortened, larger learning rates."""
    config.optimizer = shortened(config, epochs)
    config.optimizer.learning_rate = rate or SMOKE_RATES.get(config.optimizer.name, 5e-3)
    extra = {**config.model.extra, **small}
    widths = extra.pop("widths", () if config.model.name == "meliusnet" else (8, 16, 32))
    config.model = c.ModelConfig(name=config.model.name, widths=widths, extra=extra)
    config.data = dataclasses.replace(digits(), train_transform="resize(12)|pad_crop(1)", eval_transform="resize(12)")
    config.epochs = config.eval_every_epochs = epochs
    config.batch_size, config.eval_batch_size = 64, 120
    config.batch_norm_group, config.tensorboard = None, False
    return config
