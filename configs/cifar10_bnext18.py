"""BNext-18 on CIFAR-10 with the defaults of the reference code: cross-entropy, 128 epochs of batch 512.

Paper: BNext (Guo et al. 2022), arXiv 2211.12933. Published top-1: our sources give none for CIFAR (the 68.4 % in docs/spec.md, section 2,
row BNext-18, are for ImageNet). We ran only the smoke form.
Hours and hardware: our sources do not state them. We did not run `bnext plan` for it.
The signs of the weights are exact from epoch 110 on (temperature T < 1e-5, this network's own rule).
Batch statistics run over the whole batch, as in the reference on one device. We drop the last partial batch of an epoch; the reference
keeps it.
BNext-18 has no ablations: `model.elm_attention` and `model.info_recoupling` are switches of BNext-T, S, M and L only.

    python main.py prepare --config=configs/cifar10_bnext18.py    # downloads the dataset once
    python main.py train --config=configs/cifar10_bnext18.py --workdir=runs/cifar10_bnext18    # one host
    python main.py train --config=configs/cifar10_bnext18.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/cifar10_bnext18.py --workdir=gs://BUCKET/runs/cifar10_bnext18"    # a pod, every host

What all recipes share (fewer chips, ablations, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes


def get_config(form="labels"):
    """form: "labels" or "smoke"."""
    return recipes.cifar("bnext18", "cifar10", form)
