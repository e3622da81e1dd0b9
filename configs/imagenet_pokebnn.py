"""PokeBNN-0.5x, -0.75x, -1.0x and -2.0x (Zhang et al. 2021, arXiv 2112.00133) on ImageNet-1k: 800 epochs of Adam, one teacher.

Published top-1 (docs/zoo.md): 0.5x: 65.2 %, 0.75x: 70.5 %, 1.0x: 73.4 %, 2.0x: 77.2 %. We ran only the smoke form, so they are not
reproduced here.
There is no form for the published 1.4x (75.6 %): its widths do not divide, and the published code cannot build it.
Adam (0.9, 0.99), batch 8192, learning rate 6.4e-4 (2e-5 for each 256 images of a batch), linear to 0 at epoch 750, an L2 term of half of
5e-5.
The bounds of 8-bit and 4-bit inputs are set at step 7500, weights are quantized from epoch 50 on. Everything is computed in bfloat16.
The loss is the cross-entropy with the teacher alone. The published teacher is an 8-bit ResNet-50, which we do not have; the recipe takes
torchvision's ResNet-50. Batch norm over groups of 64 images is our choice, as in BNext's recipe: our sources do not say how many images a
device had.

    python main.py prepare --config=configs/imagenet_pokebnn.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py convert --source=resnet50.tv_in1k --output=resnet50.tv_in1k.safetensors    # teacher
    python main.py train --config=configs/imagenet_pokebnn.py:1.0x --workdir=runs/pokebnn_1.0x    # one host; :0.5x, :0.75x, :2.0x likewise
    python main.py train --config=configs/imagenet_real_to_binary.py:smoke_step0 --workdir=runs/smoke_real_to_binary_step0
    python main.py train --config=configs/imagenet_pokebnn.py:smoke --workdir=runs/smoke_pokebnn    # digits, a small network
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_pokebnn.py:1.0x --workdir=gs://BUCKET/runs/pokebnn_1.0x"    # a pod

What all recipes share (fewer chips, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes_zoo


def get_config(form="1.0x"):
    """form: "1.0x", "0.5x", "0.75x", "2.0x" or "smoke"."""
    return recipes_zoo.pokebnn(form)
