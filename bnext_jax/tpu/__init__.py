"""Ahead-of-time compilation for TPUs without a TPU: the core of `plan`."""
