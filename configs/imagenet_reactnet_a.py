"""ReActNet-A (Liu et al. 2020, arXiv 2003.03488) on ImageNet-1k: two steps, distilled from ResNet-34.

Published top-1: 69.4 % in the paper, 69.5 % in the authors' repository (docs/zoo.md). We ran only the smoke forms, so the published top-1
is not reproduced here.
Each step: 128 epochs of Adam, learning rate 1.25e-3, batch 256, linear to 0 with the published step ahead: the last epoch moves only
running statistics. The teacher is torchvision's ResNet-34, and there are no labels in the loss. Step 1 has a weight decay of 1e-5 on
convolutions and shifts, step 2 none. PCA lighting 0.1 (the published code hardly changes a pixel; ours does what the method means).
Step 2 starts from all weights of step 1, as in the paper. In the published code the binary weights start anew, because their names differ
in the two steps: --config.init_fresh_latent=True does the same.
Batch norm over groups of 64 images is our choice, as in BNext's recipe: our sources do not say how many images a device had.

    python main.py prepare --config=configs/imagenet_reactnet_a.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py convert --source=resnet34.tv_in1k --output=resnet34.tv_in1k.safetensors    # teacher
    python main.py train --config=configs/imagenet_reactnet_a.py:step1 --workdir=runs/reactnet_a_step1    # real weights, binary activations
    python main.py train --config=configs/imagenet_reactnet_a.py:step2 --workdir=runs/reactnet_a_step2    # both binary, from step 1
    python main.py train --config=configs/imagenet_real_to_binary.py:smoke_step0 --workdir=runs/smoke_real_to_binary_step0
    python main.py train --config=configs/imagenet_reactnet_a.py:smoke_step1 --workdir=runs/smoke_reactnet_a_step1
    python main.py train --config=configs/imagenet_reactnet_a.py:smoke_step2 --workdir=runs/smoke_reactnet_a_step2
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_reactnet_a.py:step2 --workdir=gs://BUCKET/runs/reactnet_a_step2
    --config.init=gs://BUCKET/runs/reactnet_a_step1"    # a pod

What all recipes share (fewer chips, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes_zoo


def get_config(form="step2"):
    """form: "step1", "step2", "smoke_step1" or "smoke_step2"."""
    return recipes_zoo.reactnet("reactnet_a", form)
