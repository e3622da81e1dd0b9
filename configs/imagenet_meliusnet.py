"""MeliusNet-22, -29, -42, -59, -A, -B and -C (Bethge et al. 2020, arXiv 2001.05936) on ImageNet-1k: 120 epochs of RAdam, labels alone.

Published top-1 with the grouped stem (docs/zoo.md): 22: 63.6 %, 29: 65.8 %, 42: 69.2 %, 59: 70.7 %, A: 63.4 %, B: 65.7 %, C: 64.1 %. With
a 7x7 stem (--config.model.extra="{'stem': 'imagenet'}") 22 has 62.9 %.
We ran only the smoke form, so the published top-1 is not reproduced here.
Learning rate 2e-3, one cosine to 0, batch 64, no weight decay. The network follows the rules of the authors' library (variant "bitorch").
Batch norm over groups of 64 images is our choice, as in BNext's recipe: our sources do not say how many images a device had.

    python main.py prepare --config=configs/imagenet_meliusnet.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py train --config=configs/imagenet_meliusnet.py:22 --workdir=runs/meliusnet22
    python main.py train --config=configs/imagenet_meliusnet.py:smoke --workdir=runs/smoke_meliusnet    # digits, a small network
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_meliusnet.py:22 --workdir=gs://BUCKET/runs/meliusnet22"    # a pod

What all recipes share (fewer chips, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes_zoo


def get_config(form="22"):
    """form: "22", "29", "42", "59", "a", "b", "c" or "smoke"."""
    return recipes_zoo.meliusnet(form)
