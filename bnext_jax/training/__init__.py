"""Training: device mesh, optimizer, training state, training step, evaluation, checkpoints and the training loop."""
