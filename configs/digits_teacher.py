"""The real-valued teachers of the digits example: a small EfficientNet (the assistant) and a ConvNeXt (the main teacher).

python main.py train --config=configs/digits_teacher.py:assistant --workdir=runs/quickstart/assistant
python main.py train --config=configs/digits_teacher.py:main --workdir=runs/quickstart/main
python main.py train --config=configs/digits_teacher.py:smoke --workdir=/tmp/smoke                # one block, two epochs
"""

from bnext_jax import config as c
from configs.digits_student import digits_data

EFFICIENTNET = {"stem_width": 16, "stem_stride": 1, "head_width": 128, "stages": ((4, 3, 2, 24, 1), (4, 3, 2, 40, 1))}
CONVNEXT = {"widths": (32, 64), "depths": (2, 2), "patch": 2}


def get_config(form="main"):
    """form: "main", "assistant" or "smoke"."""
    extra = {"main": CONVNEXT, "assistant": EFFICIENTNET, "smoke": {"widths": (8,), "depths": (1,), "patch": 4}}
    if form not in extra:
        raise ValueError(f"unknown form {form!r} of configs/digits_teacher.py: {', '.join(extra)}")
    return c.Config(
        model=c.ModelConfig(name="efficientnet" if form == "assistant" else "convnext", extra=extra[form]),
        data=digits_data(),
        optimizer=c.OptimizerConfig(learning_rate=3e-3, warmup_epochs=2, warmup_rate=1e-3, decay_weights=1e-3),
        epochs=2 if form == "smoke" else 15,
        batch_size=64,
        eval_batch_size=120,
        tensorboard=form != "smoke",
    )
