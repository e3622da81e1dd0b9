"""Real-to-Binary (Martinez et al. 2020, arXiv 2003.11535) on ImageNet-1k: a real-valued ResNet-18, then three steps.

Published top-1: 65.4 %, top-5: 86.2 % in the paper; larq's network 65.0 %, 85.7 % (docs/zoo.md). We ran only the smoke forms, so the
published top-1 is not reproduced here.
The recipe is that of larq's code, whose authors say that their weights were not trained exactly by it.
Step 0: ResNet-18, SGD, learning rate 0.1, 100 epochs, batch 512. Step 1: real weights, tanh in place of the sign. Step 2: real weights,
binary activations. Step 3: both binary, from the weights of step 2. The teacher of each step is the step before. Steps 1 to 3: 75 epochs
of Adam, batch 256, learning rate 1e-3 (step 3: 2e-4), five epochs of warm-up, times 0.3 at epochs 40, 60 and 70. The loss is that of the
labels plus 3 KL plus 30 times the difference of the attention maps of the eight blocks; in step 3 plus 0.8 KL alone. Steps 1 and 2 have
an L2 term of 1e-5; that it covers convolutions and gates alone is our choice. Step 3 is also published with a cosine and ten epochs of
warm-up: --config.optimizer.schedule=cosine --config.optimizer.step_epochs=() --config.optimizer.step_factor=0.1
--config.optimizer.warmup_epochs=10.
The momentum of step 0, 0.9, and its weight decay, 1e-4, are our choice: our sources do not state them.
Batch norm over groups of 64 images is our choice, as in BNext's recipe: our sources do not say how many images a device had.

    python main.py prepare --config=configs/imagenet_real_to_binary.py --manual_dir=DIR    # the two tar files; class folders: --source=DIR
    python main.py train --config=configs/imagenet_real_to_binary.py:step0 --workdir=runs/real_to_binary_step0
    python main.py train --config=configs/imagenet_real_to_binary.py:step1 --workdir=runs/real_to_binary_step1
    python main.py train --config=configs/imagenet_real_to_binary.py:step2 --workdir=runs/real_to_binary_step2
    python main.py train --config=configs/imagenet_real_to_binary.py:step3 --workdir=runs/real_to_binary_step3
    python main.py train --config=configs/imagenet_real_to_binary.py:smoke_step0 --workdir=runs/smoke_real_to_binary_step0
    python main.py train --config=configs/imagenet_real_to_binary.py:smoke_step1 --workdir=runs/smoke_real_to_binary_step1
    python main.py train --config=configs/imagenet_real_to_binary.py:smoke_step2 --workdir=runs/smoke_real_to_binary_step2
    python main.py train --config=configs/imagenet_real_to_binary.py:smoke_step3 --workdir=runs/smoke_real_to_binary_step3
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="cd bnext_jax && . .venv/bin/activate &&
    python main.py train --config=configs/imagenet_real_to_binary.py:step0 --workdir=gs://BUCKET/runs/real_to_binary_step0"    # a pod

What all recipes share (fewer chips, distillation, fine-tuning, a pod): docs/training.md and docs/tpu_pods.md.
"""

from bnext_jax import recipes_zoo


def get_config(form="step3"):
    """form: "step0" to "step3", or "smoke_step0" to "smoke_step3"."""
    return recipes_zoo.real_to_binary(form)
