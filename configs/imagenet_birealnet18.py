"""Bi-Real-18 (Liu et al. 2018, arXiv 1808.00278) on ImageNet-1k: 256 epochs of Adam, labels alone.

Published top-1: 56.4 %, top-5: 79.5 % (docs/zoo.md). We ran only the smoke form, so the published top-1 is not reproduced here.
From scratch: learning rate 1e-3, batch 512, no weight decay, label smoothing 0.1, PCA lighting 0.1 (the published code hardly changes a
pixel; ours does what the method means). As in the published code, the schedule steps before the epoch: epoch e runs at 1e-3 (1 - (e + 1)
/ 256), so the last epoch moves only running statistics.
Batch norm over groups of 64 images is our choice, as in BNext's recipe: our sources do not say how many images a device had.

    python main.py prepare --config=configs/imagenet_birealnet18.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py train --config=configs/imagenet_birealnet18.py --workdir=runs/imagenet_birealnet18    # one host
    python main.py train --config=configs/imagenet_birealnet18.py:smoke --workdir=runs/smoke_birealnet18    # digits, a small network
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_birealnet18.py --workdir=gs://BUCKET/runs/imagenet_birealnet18"    # a pod

What all recipes share (fewer chips, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes_zoo


def get_config(form="labels"):
    """form: "labels" or "smoke"."""
    return recipes_zoo.birealnet18(form)
