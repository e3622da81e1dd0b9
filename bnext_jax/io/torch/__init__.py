"""Converts PyTorch state dicts to bnext_jax networks and back, and reads and writes PyTorch files."""
