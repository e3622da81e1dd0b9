"""The real-valued teachers of the digits example: a small EfficientNet (the assistant) and a ConvNeXt (the main teacher).

python main.py train --config=configs/digits_teacher.py:assistant --workdir=runs/quickstart/assistant
python main.py train --config=configs/digits_teacher.py:main --workdir=runs/quickstart/main
python main.py train --config=configs/digits_teacher.py:smoke --workdir=/tmp/smoke                # one block, two epochs
"""

from bnext_jax import recipes


def get_config(form="main"):
    """form: "main", "assistant" or "smoke"."""
    return recipes.digits_teacher(form)
