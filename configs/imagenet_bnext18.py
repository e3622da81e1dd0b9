"""BNext-18 on ImageNet-1k: 512 epochs of batch 512, distilled from the teachers of BNext-T.

Paper: BNext (Guo et al. 2022), arXiv 2211.12933. Published top-1: 68.4 %, OPs 0.043 G (docs/spec.md, section 2, row BNext-18).
We ran only the smoke form, so the published top-1 is not reproduced here.
Hours and hardware: our sources do not state them. We did not run `bnext plan` for it.
The signs of the weights are exact from epoch 110 on (temperature T < 1e-5, this network's own rule).
Our sources do not name the teachers of BNext-18. We chose those of BNext-T, the closest network in size.
BNext-18 has no ablations: `model.elm_attention` and `model.info_recoupling` are switches of BNext-T, S, M and L only.

    python main.py prepare --config=configs/imagenet_bnext18.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py convert --source=efficientnet_b0.ra_in1k --output=efficientnet_b0.ra_in1k.safetensors    # assistant
    python main.py convert --source=efficientnet_b2.ra_in1k --output=efficientnet_b2.ra_in1k.safetensors    # main teacher
    python main.py train --config=configs/imagenet_bnext18.py --workdir=runs/imagenet_bnext18    # one host
    python main.py train --config=configs/imagenet_bnext18.py:labels --workdir=runs/imagenet_bnext18_labels    # no teachers
    python main.py train --config=configs/imagenet_bnext18.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_bnext18.py --workdir=gs://BUCKET/runs/imagenet_bnext18"    # a pod, every host

What all recipes share (fewer chips, ablations, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    return recipes.imagenet("bnext18", form, students_like="bnext_tiny")
