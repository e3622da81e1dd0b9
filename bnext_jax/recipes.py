"""The published recipes and the worked examples as functions: what the files in configs/ and the command `quickstart` call.

On ImageNet the paper's recipe (SPEC sections 3 and 4), on CIFAR the defaults of the reference's code, the digits example, a smoke form.
What is not set here is a default of bnext_jax.config: the optimizer, the learning rates, the temperature 0.9^epoch.
"""

from bnext_jax import config as c
from bnext_jax.data.preprocessing import CIFAR
from bnext_jax.distill.roster import PUBLISHED_TEACHERS

RANDAUGMENT = "randaugment(rand-m7-mstd0.5-inc1)"
DIGITS_MEAN, DIGITS_STD = (0.31,) * 3, (0.38,) * 3  # of the training split at 16x16
DIGITS_EFFICIENTNET = {"stem_width": 16, "stem_stride": 1, "head_width": 128, "stages": ((4, 3, 2, 24, 1), (4, 3, 2, 40, 1))}
DIGITS_CONVNEXT = {"widths": (32, 64), "depths": (2, 2), "patch": 2}


def _check_form(file, form, forms):
    """Raises ValueError for a form that the file does not have."""
    if form not in forms:
        raise ValueError(f"unknown form {form!r} of configs/{file}.py: {', '.join(forms[:-1])} or {forms[-1]}")


def imagenet(name, form="distilled", *, batch_size=512, batch_norm_group=64, students_like=None):
    """A student on ImageNet-1k, 512 epochs.

    Args:
      name: of the network, a key of bnext_jax.models.table.MODELS.
      form: "distilled", "labels" (no teachers) or "smoke".
      batch_size: global.
      batch_norm_group: images that share batch statistics, one device's with the reference.
      students_like: the student whose teachers are taken, None = its own.
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: another form.
    """
    _check_form(f"imagenet_{name}", form, ("distilled", "labels", "smoke"))
    if form == "smoke":
        return smoke(f"random_resized_crop(32)|flip|{RANDAUGMENT}", "resize(34)|center_crop(32)")
    config = c.Config(
        model=c.ModelConfig(name=name),
        data=c.DataConfig(
            name="imagenet2012",
            eval_split="validation",
            train_transform=f"random_resized_crop(224)|flip|{RANDAUGMENT}",
            eval_transform="resize(235)|center_crop(224)",
            workers=4,
        ),
        epochs=512,
        batch_size=batch_size,
        batch_norm_group=batch_norm_group,
    )
    if form == "distilled":
        assistants, main = PUBLISHED_TEACHERS[students_like or name]
        config.distill = c.DistillConfig(
            main=f"{main}={main}.safetensors",
            assistants=tuple(f"{tag}={tag}.safetensors" for tag in assistants),
            measure=True,
            precision="bfloat16",
        )
    return config


def cifar(name, dataset, form="labels"):
    """A student on CIFAR, 128 epochs of cross-entropy.

    Args:
      name: of the network.
      dataset: "cifar10" or "cifar100".
      form: "labels" or "smoke".
    Returns, raises: as imagenet.
    """
    _check_form(f"{dataset}_{name}", form, ("labels", "smoke"))
    if form == "smoke":
        return smoke("resize(32)|pad_crop(4)|flip", "resize(32)")
    return c.Config(
        model=c.ModelConfig(name=name),
        data=c.DataConfig(name=dataset, train_transform="pad_crop(4)|flip", mean=tuple(CIFAR["mean"]), std=tuple(CIFAR["std"])),
        epochs=128,
        batch_size=512,
        eval_batch_size=512,
    )


def smoke(train_transform, eval_transform):
    """Two epochs of four steps: a narrow BNext with every kind of block on 256 scanned digits, 32x32 pixels, without teachers.

    Only the transforms, which run outside the compiled programs, differ between recipes: all smoke forms compile the same programs.
    """
    return c.Config(
        model=c.ModelConfig(name="bnext", widths=(8, 8, 16, 16)),
        data=c.DataConfig(
            name="digits",
            train_split="train[:256]",
            eval_split="test[:120]",
            train_transform=train_transform,
            eval_transform=eval_transform,
        ),
        epochs=2,
        batch_size=64,
        eval_batch_size=120,
        batch_norm_group=16,
        tensorboard=False,
    )


def _digits():
    """Sixteen pixels instead of eight, so that two strides leave a map; shifted by up to one pixel in training."""
    transforms = {"train_transform": "resize(16)|pad_crop(1)", "eval_transform": "resize(16)"}
    return c.DataConfig(name="digits", **transforms, mean=DIGITS_MEAN, std=DIGITS_STD, threads=1)


def digits_student(form="distilled"):
    """A narrow BNext on scikit-learn's digits, 30 epochs, exact signs from three quarters of them on.

    form: "distilled" (from the runs of digits_teacher in runs/quickstart), "labels" (no teachers) or "smoke". Returns, raises: as imagenet.
    """
    _check_form("digits_student", form, ("distilled", "labels", "smoke"))
    config = c.Config(
        model=c.ModelConfig(name="bnext", widths=(16, 32, 64, 64)),
        data=_digits(),
        optimizer=c.OptimizerConfig(learning_rate=5e-3, warmup_epochs=2, warmup_rate=1e-3),
        temperature=c.TemperatureConfig(exact_from=0.75),
        epochs=30,
        batch_size=64,
        eval_batch_size=120,
    )
    if form == "distilled":
        config.distill = c.DistillConfig(main="runs/quickstart/main", assistants=("runs/quickstart/assistant",))
    if form == "smoke":
        config.epochs, config.model.widths, config.tensorboard = 2, (8, 8, 16, 16), False
        config.temperature.exact_from = 0.5
    return config


def digits_teacher(form="main"):
    """A small real-valued teacher on the digits, 15 epochs.

    form: "main" (a ConvNeXt), "assistant" (an EfficientNet) or "smoke" (one block, two epochs). Returns, raises: as imagenet.
    """
    networks = {
        "main": ("convnext", DIGITS_CONVNEXT),
        "assistant": ("efficientnet", DIGITS_EFFICIENTNET),
        "smoke": ("convnext", {"widths": (8,), "depths": (1,), "patch": 4}),
    }
    _check_form("digits_teacher", form, tuple(networks))
    name, arguments = networks[form]
    return c.Config(
        model=c.ModelConfig(name=name, extra=arguments),
        data=_digits(),
        optimizer=c.OptimizerConfig(learning_rate=3e-3, warmup_epochs=2, warmup_rate=1e-3, decay_weights=1e-3),
        epochs=2 if form == "smoke" else 15,
        batch_size=64,
        eval_batch_size=120,
        tensorboard=form != "smoke",
    )
