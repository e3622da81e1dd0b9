"""BNext-T on ImageNet-1k with the paper's recipe: 512 epochs of batch 512, distilled from EfficientNet-B0 and -B2.

Published top-1: 72.4 % (arXiv 2211.12933, OPs 0.077 G); not run by us. Hours and hardware: the paper does not say.
The dataset is prepared once, from the two official tar files or from class folders; teachers: `convert --source=TAG`, see the README.

    python main.py prepare --config=configs/imagenet_bnext_tiny.py --manual_dir=DIR_OF_THE_TAR_FILES
    python main.py prepare --config=configs/imagenet_bnext_tiny.py --source=DIR_WITH_train_AND_val
    python main.py plot augmentation --config=configs/imagenet_bnext_tiny.py
    python main.py train --config=configs/imagenet_bnext_tiny.py --workdir=runs/imagenet_tiny
    python main.py train --config=configs/imagenet_bnext_tiny.py:labels --workdir=runs/imagenet_tiny_labels   # without teachers
    python main.py train --config=configs/imagenet_bnext_tiny.py:smoke --workdir=/tmp/smoke   # digits, a narrow BNext, two epochs

For less memory lower config.batch_size; batch statistics run over 64 images, as on each of the reference's devices.
"""

from bnext_jax import config as c
from bnext_jax.teachers import FACULTIES


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    if form not in ("distilled", "labels", "smoke"):
        raise ValueError(f"unknown form {form!r} of configs/imagenet_bnext_tiny.py: distilled, labels or smoke")
    config = c.Config(
        model=c.ModelConfig(name="bnext_tiny"),
        data=c.DataConfig(
            name="imagenet2012",
            eval_split="validation",
            train_transform="random_resized_crop(224)|flip|randaugment(rand-m7-mstd0.5-inc1)",
            eval_transform="resize(235)|center_crop(224)",
            workers=4,
        ),
        epochs=512,
        batch_size=512,
        batch_norm_group=64,
    )
    if form == "distilled":
        assistants, main = FACULTIES["bnext_tiny"]
        config.distill = c.DistillConfig(
            main=f"{main}={main}.safetensors", assistants=tuple(f"{tag}={tag}.safetensors" for tag in assistants), precision="bfloat16"
        )
    if form == "smoke":
        config.model = c.ModelConfig(name="bnext", widths=(8, 8, 16, 16))
        config.data.name, config.data.eval_split, config.data.workers = "digits", "test", 0
        config.data.train_transform = "random_resized_crop(32)|flip|randaugment(rand-m7-mstd0.5-inc1)"
        config.data.eval_transform = "resize(34)|center_crop(32)"
        config.epochs, config.batch_size, config.eval_batch_size, config.tensorboard = 2, 64, 120, False
    return config
