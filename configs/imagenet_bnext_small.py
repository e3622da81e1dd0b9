"""BNext-S on ImageNet-1k, 512 epochs of batch 512, distilled from EfficientNet-B0 and -B2. arXiv 2211.12933.

Published top-1: 76.1 %, OPs 0.172 G (row BNext-S of SPEC section 2). Hours and hardware: our sources do not say.
We ran nothing but the smoke form, so the published top-1 is not reproduced here. Signs are exact from epoch 153 on (T < 1e-7).

    python main.py prepare --config=configs/imagenet_bnext_small.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py convert --source=efficientnet_b0.ra_in1k --output=efficientnet_b0.ra_in1k.safetensors    # assistant
    python main.py convert --source=efficientnet_b2.ra_in1k --output=efficientnet_b2.ra_in1k.safetensors    # main teacher
    python main.py train --config=configs/imagenet_bnext_small.py --workdir=runs/imagenet_bnext_small    # one host
    python main.py train --config=configs/imagenet_bnext_small.py:labels --workdir=runs/imagenet_bnext_small_labels    # no teachers
    python main.py train --config=configs/imagenet_bnext_small.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_bnext_small.py --workdir=gs://BUCKET/runs/imagenet_bnext_small"    # a pod, every host

Fewer chips: the batch is global and stays. `--config.accumulate=K` splits each step into K parts, with the same result as long as
batch_norm_group (64) divides batch / devices / K (8 chips: K = 1, 4 chips: 2, one chip: 8); `--config.mesh="data=4,shard=2"` splits
parameters and optimizer state over `shard` devices; or lower `--config.batch_size`, which is another recipe.

Ablations: `--config.model.elm_attention=False`, `--config.model.info_recoupling=False` (the reference's own command line could never
switch either off, SPEC section 7 item 7).
Distillation: `--config.distill.form=per_instance` is the loss that the paper describes, the default the one that the reference computes;
`--config.distill.assistants="()"` leaves the main teacher alone. Fine-tuning: `--config.init=PATH`.
"""

from bnext_jax import recipes


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    return recipes.imagenet("bnext_small", form)
