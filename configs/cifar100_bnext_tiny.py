"""BNext-T on CIFAR-100 with the defaults of the reference code: cross-entropy, 128 epochs of batch 512.

Paper: BNext (Guo et al. 2022), arXiv 2211.12933. Published top-1: our sources give none for CIFAR (the 72.4 % in docs/spec.md, section 2,
row BNext-T, are for ImageNet). We ran only the smoke form.
Hours and hardware: our sources do not state them. We did not run `bnext plan` for it.
The temperature T ends at 0.9^127, about 1.5e-6. Signs are exact only at T < 1e-7, so the weights never become binary and the result says
"binary": false. `--config.epochs=160` or `--config.temperature.exact_from=0.75` gives binary weights, but that is another recipe.
Batch statistics run over the whole batch, as in the reference on one device. We drop the last partial batch of an epoch; the reference
keeps it.

    python main.py prepare --config=configs/cifar100_bnext_tiny.py    # downloads the dataset once
    python main.py train --config=configs/cifar100_bnext_tiny.py --workdir=runs/cifar100_bnext_tiny    # one host
    python main.py train --config=configs/cifar100_bnext_tiny.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/cifar100_bnext_tiny.py --workdir=gs://BUCKET/runs/cifar100_bnext_tiny"    # a pod, every host

What all recipes share (fewer chips, ablations, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes


def get_config(form="labels"):
    """form: "labels" or "smoke"."""
    return recipes.cifar("bnext_tiny", "cifar100", form)
