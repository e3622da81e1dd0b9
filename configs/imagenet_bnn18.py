"""BNN (Hubara et al. 2016, arXiv 1602.02830) in the frame of ResNet-18 on ImageNet-1k: 100 epochs of SGD, labels alone.

Published top-1: 42.2 % (results of others; docs/zoo.md). We ran only the smoke form, so the published top-1 is not reproduced here.
Momentum 0.9, learning rate 0.1, times 0.1 at epochs 30, 60 and 90, weight decay 1e-4 until epoch 60. Latent weights are clipped to the
range of -1 to 1.
The number of epochs and the batch size are our choice: our sources do not state them.
Batch norm over groups of 64 images is our choice, as in BNext's recipe: our sources do not say how many images a device had.

    python main.py prepare --config=configs/imagenet_bnn18.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py train --config=configs/imagenet_bnn18.py --workdir=runs/imagenet_bnn18    # one host
    python main.py train --config=configs/imagenet_bnn18.py:smoke --workdir=runs/smoke_bnn18    # digits, a small network
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_bnn18.py --workdir=gs://BUCKET/runs/imagenet_bnn18"    # a pod

What all recipes share (fewer chips, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes_zoo


def get_config(form="labels"):
    """form: "labels" or "smoke"."""
    return recipes_zoo.bnn18(form)
