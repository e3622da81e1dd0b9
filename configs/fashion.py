"""A narrow BNext on Fashion-MNIST: 60,000 + 10,000 gray photos of clothes, 28x28 pixels, ten classes; 15 epochs, labels alone.

Dataset: Xiao et al. 2017, arXiv 1708.07747. TFDS downloads it. Without a network, give the folder of its four IDX files; Debian has them in
the package dataset-fashion-mnist. Any other dataset of IDX files: also set --config.data.name, and its mean and std.
BNext and its ancestors on these photos, side by side: benchmarks/comparison.py.

    python main.py prepare --config=configs/fashion.py    # from TFDS
    python main.py prepare --config=configs/fashion.py --manual_dir=/usr/share/datasets/fashion-mnist    # or from IDX files
    python main.py train --config=configs/fashion.py --workdir=runs/fashion
    python main.py train --config=configs/fashion.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
"""

from bnext_jax import recipes


def get_config(form="labels"):
    """form: "labels" or "smoke"."""
    return recipes.fashion(form)
