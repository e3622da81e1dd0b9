"""Image transforms for training (augmentation) and evaluation."""
