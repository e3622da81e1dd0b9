"""BNext-T on CIFAR-100 with the defaults of the reference's code: cross-entropy, 128 epochs of batch 512. arXiv 2211.12933.

Published top-1: our sources give none for CIFAR (the 72.4 % in row BNext-T of SPEC section 2 are ImageNet's). Hours and hardware: our
sources do not say. We ran nothing but the smoke form. T ends at 0.9^127, about 1.5e-6, so signs never become exact (T < 1e-7):
the result says "binary": false. `--config.epochs=160` or `--config.temperature.exact_from=0.75` makes binary weights, by another recipe.

    python main.py prepare --config=configs/cifar100_bnext_tiny.py    # downloads the dataset once
    python main.py train --config=configs/cifar100_bnext_tiny.py --workdir=runs/cifar100_bnext_tiny    # one host
    python main.py train --config=configs/cifar100_bnext_tiny.py:smoke --workdir=/tmp/smoke    # digits, a narrow BNext
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/cifar100_bnext_tiny.py --workdir=gs://BUCKET/runs/cifar100_bnext_tiny"    # a pod, every host

Batch statistics run over the whole batch, as with the reference on one device. We drop an epoch's last partial batch, which it keeps.
Fewer chips: the batch is global and stays. `--config.accumulate=K` splits each step into K parts, with the same result as long as
`--config.batch_norm_group`, to be set with it, divides batch / devices / K; `--config.mesh="data=4,shard=2"` splits parameters and
optimizer state over `shard` devices; or lower `--config.batch_size`, which is another recipe.

Ablations: `--config.model.elm_attention=False`, `--config.model.info_recoupling=False` (the reference's own command line could never
switch either off, SPEC section 7 item 7).
Distillation, from teachers of your own: `--config.distill.main=PATH`, by the loss that the paper describes with
`--config.distill.form=per_instance`; `--config.distill.assistants="()"`, the default, is a single teacher.
Fine-tuning: `--config.init=PATH`; a network trained on ImageNet also needs `--config.init_new_head=True`, `--config.model.stem_stride=2`.
"""

from bnext_jax import recipes


def get_config(form="labels"):
    """form: "labels" or "smoke"."""
    return recipes.cifar("bnext_tiny", "cifar100", form)
