"""BNext-18 on CIFAR-10 or CIFAR-100 with the reference's defaults: cross-entropy, 128 epochs of batch 512, T = 0.9^epoch.

Published top-1: none of the paper's tables that we rely on gives these settings; not run by us (CIFAR has to be downloaded).

    python main.py prepare --config=configs/cifar_bnext18.py:cifar10
    python main.py train --config=configs/cifar_bnext18.py:cifar10 --workdir=runs/cifar10
    python main.py train --config=configs/cifar_bnext18.py:smoke --workdir=/tmp/smoke      # digits, a narrow BNext, two epochs

For less memory lower config.batch_size. The reference keeps an epoch's last partial batch here; we drop it, as everywhere.
"""

from bnext_jax import config as c


def get_config(form="cifar10"):
    """form: "cifar10", "cifar100" or "smoke"."""
    if form not in ("cifar10", "cifar100", "smoke"):
        raise ValueError(f"unknown form {form!r} of configs/cifar_bnext18.py: cifar10, cifar100 or smoke")
    config = c.Config(
        model=c.ModelConfig(name="bnext18"),
        data=c.DataConfig(name=form, train_transform="pad_crop(4)|flip", mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276)),
        epochs=128,
        batch_size=512,
        eval_batch_size=500,
    )
    if form == "smoke":
        config.model = c.ModelConfig(name="bnext", widths=(8, 8, 16, 16))
        config.data.name, config.data.eval_transform = "digits", "resize(32)"
        config.data.train_transform = "resize(32)|pad_crop(4)|flip"
        config.epochs, config.batch_size, config.eval_batch_size, config.tensorboard = 2, 64, 120, False
    return config
