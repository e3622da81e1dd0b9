"""A narrow BNext on scikit-learn's digits, 16x16 pixels, distilled from two real-valued teachers trained by us.

Needs the runs of configs/digits_teacher.py ("assistant" and "main") in runs/quickstart; `python main.py quickstart` does all of it.

    python main.py train --config=configs/digits_student.py --workdir=runs/quickstart/student
    python main.py train --config=configs/digits_student.py:labels --workdir=runs/digits_labels       # labels alone, no teachers
    python main.py train --config=configs/digits_student.py:smoke --workdir=/tmp/smoke                # two epochs, labels alone
"""

from bnext_jax import config as c

MEAN, STD = (0.31,) * 3, (0.38,) * 3  # of the training split at 16x16


def digits_data():
    """Sixteen pixels instead of eight, so that two strides leave a map; shifted by up to one pixel in training."""
    return c.DataConfig(name="digits", train_transform="resize(16)|pad_crop(1)", eval_transform="resize(16)", mean=MEAN, std=STD, threads=1)


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    if form not in ("distilled", "labels", "smoke"):
        raise ValueError(f"unknown form {form!r} of configs/digits_student.py: distilled, labels or smoke")
    config = c.Config(
        model=c.ModelConfig(name="bnext", widths=(16, 32, 64, 64)),
        data=digits_data(),
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
