"""BNext-18 on ImageNet-1k, 512 epochs of batch 512, distilled from the teachers of BNext-T. arXiv 2211.12933.

Published top-1: 68.4 %, OPs 0.043 G (row BNext-18 of SPEC section 2). Hours and hardware: our sources do not say.
We ran nothing but the smoke form, so the published top-1 is not reproduced here. Signs are exact from epoch 110 on (T < 1e-5).
The sources we rely on do not name BNext-18's teachers. Those here are BNext-T's, the closest in size: our choice.

    python main.py prepare --config=configs/imagenet_bnext18.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py convert --source=efficientnet_b0.ra_in1k --output=efficientnet_b0.ra_in1k.safetensors    # assistant
    python main.py convert --source=efficientnet_b2.ra_in1k --output=efficientnet_b2.ra_in1k.safetensors    # main teacher
    python main.py train --config=configs/imagenet_bnext18.py --workdir=runs/imagenet_bnext18    # one host
    python main.py train --config=configs/imagenet_bnext18.py:labels --workdir=runs/imagenet_bnext18_labels    # no teachers
    python main.py train --config=configs/imagenet_bnext18.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_bnext18.py --workdir=gs://BUCKET/runs/imagenet_bnext18"    # a pod, every host

Fewer chips: the batch is global and stays. `--config.accumulate=K` splits each step into K parts, with the same result as long as
batch_norm_group (64) divides batch / devices / K (8 chips: K = 1, 4 chips: 2, one chip: 8); `--config.mesh="data=4,shard=2"` splits
parameters and optimizer state over `shard` devices; or lower `--config.batch_size`, which is another recipe.

Ablations of the network: none; `model.elm_attention` and `model.info_recoupling` are switches of T, S, M and L alone.
Distillation: `--config.distill.form=per_instance` is the loss that the paper describes, the default the one that the reference computes;
`--config.distill.assistants="()"` leaves the main teacher alone. Fine-tuning: `--config.init=PATH`.
"""

from bnext_jax import recipes


def get_config(form="distilled"):
    """form: "distilled", "labels" (no teachers) or "smoke"."""
    return recipes.imagenet("bnext18", form, students_like="bnext_tiny")
