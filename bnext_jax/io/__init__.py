"""Reads and writes networks: work directories of bnext_jax and PyTorch files."""
