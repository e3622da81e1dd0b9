"""Training: mesh, optimizer, state, step, evaluation, checkpoints, the loop."""
