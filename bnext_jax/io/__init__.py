"""Reads and writes networks: work directories of bnext_jax and files of PyTorch; reads those of Keras and Flax."""
