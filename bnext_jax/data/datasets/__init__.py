"""Datasets that TFDS does not provide, and the class names of ImageNet."""
