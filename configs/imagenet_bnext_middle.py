"""BNext-M on ImageNet-1k: 512 epochs of batch 512, distilled from EfficientNet-B0, -B2 and -B4.

Paper: BNext (Guo et al. 2022), arXiv 2211.12933. Published top-1: 78.3 %, OPs 0.317 G (docs/spec.md, section 2, row BNext-M).
We ran only the smoke form, so the published top-1 is not reproduced here.
Hours and hardware: our sources do not state them.
`bnext plan` bounds a run on eight v5e chips at about 21 hours or more (results/plan.json).
The signs of the weights are exact from epoch 153 on (temperature T < 1e-7).

    python main.py prepare --config=configs/imagenet_bnext_middle.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py convert --source=efficientnet_b0.ra_in1k --output=efficientnet_b0.ra_in1k.safetensors    # assistant, epochs 0 to 255
    python main.py convert --source=efficientnet_b2.ra_in1k --output=efficientnet_b2.ra_in1k.safetensors    # assistant, from 256 on
    python main.py convert --source=efficientnet_b4.ra2_in1k --output=efficientnet_b4.ra2_in1k.safetensors    # main teacher
    python main.py train --config=configs/imagenet_bnext_middle.py --workdir=runs/imagenet_bnext_middle    # one host
    python main.py train --config=configs/imagenet_bnext_middle.py:labels --workdir=runs/imagenet_bnext_middle_labels    # no teachers
    python main.py train --config=configs/imagenet_bnext_middle.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_bnext_middle.py --workdir=gs://BUCKET/runs/imagenet_bnext_middle"    # a pod, every host

What all recipes share (fewer chips, ablations, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    return recipes.imagenet("bnext_middle", form)
