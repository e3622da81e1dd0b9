"""Datasets that TFDS does not have."""
