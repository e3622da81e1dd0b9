"""BNext, the binary network that passed 80 % top-1 on ImageNet (arXiv 2211.12933), in JAX and Flax NNX."""
