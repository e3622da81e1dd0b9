"""What the configuration files share: the published recipe on ImageNet (SPEC sections 3 and 4), the reference's on CIFAR, a smoke form.

What is not set here is a default of bnext_jax/config.py: the optimiser, the learning rates, the temperature 0.9^epoch.
"""

from bnext_jax import config as c
from bnext_jax.distill.roster import FACULTIES


def check_form(file, form, forms):
    """Raises ValueError for a form that the file does not have."""
    if form not in forms:
        raise ValueError(f"unknown form {form!r} of {file}: {', '.join(forms[:-1])} or {forms[-1]}")


def imagenet(name, form, *, batch_size=512, batch_norm_group=64, students_like=None):
    """A student on ImageNet-1k, 512 epochs.

    Args:
      name: of the network, a key of bnext_jax.models.MODELS. form: "distilled", "labels" (no teachers) or "smoke".
      batch_size: global. batch_norm_group: images that share batch statistics, one device's with the reference.
      students_like: the student whose teachers are taken, None = its own.
    """
    check_form(f"configs/imagenet_{name}.py", form, ("distilled", "labels", "smoke"))
    if form == "smoke":
        return smoke("random_resized_crop(32)|flip|randaugment(rand-m7-mstd0.5-inc1)", "resize(34)|center_crop(32)")
    config = c.Config(
        model=c.ModelConfig(name=name),
        data=c.DataConfig(
            name="imagenet2012",
            eval_split="validation",
            train_transform="random_resized_crop(224)|flip|randaugment(rand-m7-mstd0.5-inc1)",
            eval_transform="resize(235)|center_crop(224)",
            workers=4,
        ),
        epochs=512,
        batch_size=batch_size,
        batch_norm_group=batch_norm_group,
    )
    if form == "distilled":
        assistants, main = FACULTIES[students_like or name]
        config.distill = c.DistillConfig(
            main=f"{main}={main}.safetensors",
            assistants=tuple(f"{tag}={tag}.safetensors" for tag in assistants),
            measure=True,
            precision="bfloat16",
        )
    return config


def cifar(name, dataset, form):
    """A student on "cifar10" or "cifar100", 128 epochs of cross-entropy. name: of the network. form: "labels" or "smoke"."""
    check_form(f"configs/{dataset}_{name}.py", form, ("labels", "smoke"))
    if form == "smoke":
        return smoke("resize(32)|pad_crop(4)|flip", "resize(32)")
    return c.Config(
        model=c.ModelConfig(name=name),
        data=c.DataConfig(name=dataset, train_transform="pad_crop(4)|flip", mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276)),
        epochs=128,
        batch_size=512,
        eval_batch_size=512,
    )


def smoke(train_transform, eval_transform):
    """Two epochs of four steps: a narrow BNext with every kind of block on 256 scanned digits, 32x32 pixels, without teachers.

    Only the transforms, which run outside the compiled programs, differ between files: all smoke forms compile the same programs.
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
