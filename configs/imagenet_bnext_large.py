"""BNext-L on ImageNet-1k: 512 epochs of batch 128, distilled from EfficientNet-B0, -B4 and ConvNeXt-Tiny.

Paper: BNext (Guo et al. 2022), arXiv 2211.12933. Published top-1: 80.57 %, OPs 0.819 G (docs/spec.md, section 2, row BNext-L).
We ran only the smoke form, so the published top-1 is not reproduced here.
Hours and hardware: our sources do not state them.
`bnext plan` bounds a run on eight v5e chips at about 52 hours or more (results/plan.json).
The signs of the weights are exact from epoch 153 on (temperature T < 1e-7).
Batch statistics run over 16 images. The reference keeps them per device: batch 128 on its 8 devices is 16 each (batch 512: 64 each).

    python main.py prepare --config=configs/imagenet_bnext_large.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py convert --source=efficientnet_b0.ra_in1k --output=efficientnet_b0.ra_in1k.safetensors    # assistant, epochs 0 to 170
    python main.py convert --source=efficientnet_b4.ra2_in1k --output=efficientnet_b4.ra2_in1k.safetensors    # assistant, 171 to 341
    python main.py convert --source=convnext_tiny.fb_in1k --output=convnext_tiny.fb_in1k.safetensors    # main, and assistant from 342 on
    python main.py train --config=configs/imagenet_bnext_large.py --workdir=runs/imagenet_bnext_large    # one host
    python main.py train --config=configs/imagenet_bnext_large.py:labels --workdir=runs/imagenet_bnext_large_labels    # no teachers
    python main.py train --config=configs/imagenet_bnext_large.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_bnext_large.py --workdir=gs://BUCKET/runs/imagenet_bnext_large"    # a pod, every host

What all recipes share (fewer chips, ablations, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    return recipes.imagenet("bnext_large", form, batch_size=128, batch_norm_group=16)
