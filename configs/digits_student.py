"""A narrow BNext on scikit-learn's digits, 16x16 pixels, distilled from two real-valued teachers that we train.

Train the two forms "assistant" and "main" of configs/digits_teacher.py in runs/quickstart first. `python main.py quickstart` runs all
three trainings.

    python main.py train --config=configs/digits_student.py --workdir=runs/quickstart/student
    python main.py train --config=configs/digits_student.py:labels --workdir=runs/digits_labels       # labels alone, no teachers
    python main.py train --config=configs/digits_student.py:smoke --workdir=/tmp/smoke                # two epochs, labels alone
"""

from bnext_jax import recipes


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    return recipes.digits_student(form)
