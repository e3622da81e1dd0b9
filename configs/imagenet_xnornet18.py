"""XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279) in the frame of ResNet-18 on ImageNet-1k: 58 epochs of Adam, labels alone.

Published top-1: 51.2 %, top-5: 73.2 % (docs/zoo.md). We ran only the smoke form, so the published top-1 is not reproduced here.
The recipe is that of the port to PyTorch: learning rate 1e-3, times 0.1 at epochs 20, 35, 45 and 50, batch 256, no weight decay, latent
weights clipped to [-1, 1]. The paper trains with SGD.
Batch norm over groups of 64 images is our choice, as in BNext's recipe: our sources do not say how many images a device had.

    python main.py prepare --config=configs/imagenet_xnornet18.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py train --config=configs/imagenet_xnornet18.py --workdir=runs/imagenet_xnornet18    # one host
    python main.py train --config=configs/imagenet_xnornet18.py:smoke --workdir=runs/smoke_xnornet18    # digits, a small network
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_xnornet18.py --workdir=gs://BUCKET/runs/imagenet_xnornet18"    # a pod

What all recipes share (fewer chips, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes_zoo


def get_config(form="labels"):
    """form: "labels" or "smoke"."""
    return recipes_zoo.xnornet18(form)
