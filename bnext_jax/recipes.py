"""The published recipes and the worked examples, as functions. The files in configs/ and the command `quickstart` call them.

- ImageNet: the paper's recipe (Guo et al. 2022, arXiv 2211.12933; docs/spec.md, sections 3 and 4).
- CIFAR: the defaults of the authors' code.
- Digits: a small student and its teachers.
- Fashion-MNIST: a narrow BNext, the network of the manual's measured comparison.
- Smoke forms: tiny runs for tests.

Everything that is not set here is a default of bnext_jax.config: the optimizer, the learning rates, the temperature 0.9^epoch.
"""

from collections.abc import Sequence
from typing import Any

from bnext_jax import config as c
from bnext_jax.data.preprocessing import CIFAR
from bnext_jax.distill.roster import PUBLISHED_TEACHERS

RANDAUGMENT = "randaugment(rand-m7-mstd0.5-inc1)"
DIGITS_MEAN, DIGITS_STD = (0.31,) * 3, (0.38,) * 3  # of the training split's pixels at 16x16
FASHION_MEAN, FASHION_STD = (0.286,) * 3, (0.353,) * 3  # of the training split's pixels
DIGITS_EFFICIENTNET = {"stem_width": 16, "stem_stride": 1, "head_width": 128, "stages": ((4, 3, 2, 24, 1), (4, 3, 2, 40, 1))}
DIGITS_CONVNEXT = {"widths": (32, 64), "depths": (2, 2), "patch": 2}


def check_form(file: str, form: str, forms: Sequence[str]) -> None:
    """Raises ValueError if `form` is not one of `forms`, the forms of configs/{file}.py."""
    if form not in forms:
        raise ValueError(f"unknown form {form!r} of configs/{file}.py: {', '.join(forms[:-1])} or {forms[-1]}")


def imagenet(
    name: str, form: str = "distilled", *, batch_size: int = 512, batch_norm_group: int = 64, students_like: str | None = None
) -> c.Config:
    """Makes the configuration of a student on ImageNet-1k, 512 epochs.

    Args:
      name: the student, a key of bnext_jax.models.table.MODELS.
      form: "distilled", "labels" (no teachers) or "smoke".
      batch_size: images per step, over all devices.
      batch_norm_group: images that share batch-norm statistics. In the authors' code these are the images of one device.
      students_like: the student whose published teachers are used. None = `name`.
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: an unknown form.
    """
    check_form(f"imagenet_{name}", form, ("distilled", "labels", "smoke"))
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


def cifar(name: str, dataset: str, form: str = "labels") -> c.Config:
    """Makes the configuration of a student on CIFAR, 128 epochs of cross-entropy.

    Args:
      name: the student, a key of bnext_jax.models.table.MODELS.
      dataset: "cifar10" or "cifar100".
      form: "labels" or "smoke".
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: an unknown form.
    """
    check_form(f"{dataset}_{name}", form, ("labels", "smoke"))
    if form == "smoke":
        return smoke("resize(32)|pad_crop(4)|flip", "resize(32)")
    return c.Config(
        model=c.ModelConfig(name=name),
        data=c.DataConfig(name=dataset, train_transform="pad_crop(4)|flip", mean=tuple(CIFAR["mean"]), std=tuple(CIFAR["std"])),
        epochs=128,
        batch_size=512,
        eval_batch_size=512,
    )


def smoke(train_transform: str, eval_transform: str) -> c.Config:
    """Makes a tiny run: two epochs of four steps on 256 scanned digits of 32x32 pixels, without teachers.

    The network is a narrow BNext with every kind of block. Smoke forms of different recipes differ only in their transforms, which run
    outside the compiled programs. So all of them compile the same programs.

    Args:
      train_transform: operations on training images, see data.augment.transforms. They must make images of 32x32 pixels.
      eval_transform: operations on evaluation images, likewise.
    Returns:
      A Config, unchecked.
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


def digits() -> c.DataConfig:
    """Makes the digits dataset at 16x16 pixels instead of 8x8, so that a map remains after two strides of 2.

    In training, images are shifted by up to one pixel.
    """
    transforms: dict[str, Any] = {"train_transform": "resize(16)|pad_crop(1)", "eval_transform": "resize(16)"}
    return c.DataConfig(name="digits", **transforms, mean=DIGITS_MEAN, std=DIGITS_STD, threads=1)


def digits_student(form: str = "distilled") -> c.Config:
    """Makes the configuration of a narrow BNext on scikit-learn's digits, 30 epochs. Signs are exact after three quarters of the epochs.

    Args:
      form: "distilled" (from the runs of digits_teacher in runs/quickstart), "labels" (no teachers) or "smoke" (two epochs, no teachers).
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: an unknown form.
    """
    check_form("digits_student", form, ("distilled", "labels", "smoke"))
    config = c.Config(
        model=c.ModelConfig(name="bnext", widths=(16, 32, 64, 64)),
        data=digits(),
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
        config.temperature = c.TemperatureConfig(exact_from=0.5)
    return config


def digits_teacher(form: str = "main") -> c.Config:
    """Makes the configuration of a small real-valued teacher on the digits, 15 epochs.

    Args:
      form: "main" (a ConvNeXt), "assistant" (an EfficientNet) or "smoke" (a ConvNeXt with one block, two epochs).
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: an unknown form.
    """
    networks: dict[str, tuple[str, dict]] = {
        "main": ("convnext", DIGITS_CONVNEXT),
        "assistant": ("efficientnet", DIGITS_EFFICIENTNET),
        "smoke": ("convnext", {"widths": (8,), "depths": (1,), "patch": 4}),
    }
    check_form("digits_teacher", form, tuple(networks))
    name, arguments = networks[form]
    return c.Config(
        model=c.ModelConfig(name=name, extra=arguments),
        data=digits(),
        optimizer=c.OptimizerConfig(learning_rate=3e-3, warmup_epochs=2, warmup_rate=1e-3, decay_weights=1e-3),
        epochs=2 if form == "smoke" else 15,
        batch_size=64,
        eval_batch_size=120,
        tensorboard=form != "smoke",
    )


def fashion(form: str = "labels") -> c.Config:
    """Makes the configuration of a narrow BNext on Fashion-MNIST, 15 epochs. Signs are exact after three quarters of the epochs.

    Args:
      form: "labels" or "smoke".
    Returns:
      A Config, unchecked.
    Raises:
      ValueError: an unknown form.
    """
    check_form("fashion", form, ("labels", "smoke"))
    if form == "smoke":
        return smoke("resize(32)|pad_crop(2)|flip", "resize(32)")
    return c.Config(
        model=c.ModelConfig(name="bnext", widths=(24, 48, 48, 96, 96), stem_stride=2),
        data=c.DataConfig(name="fashion_mnist", train_transform="pad_crop(2)|flip", mean=FASHION_MEAN, std=FASHION_STD, threads=1),
        optimizer=c.OptimizerConfig(learning_rate=5e-3, schedule="cosine", warmup_epochs=1, warmup_rate=5e-4, final_rate=0.0),
        temperature=c.TemperatureConfig(exact_from=0.75),
        epochs=15,
        batch_size=64,
        eval_batch_size=500,
    )
