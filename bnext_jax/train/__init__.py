"""Training: mesh, optimiser, state, step, evaluation, checkpoints, the loop."""
