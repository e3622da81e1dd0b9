"""Images as a network sees them."""

import jax.numpy as jnp

from bnext_jax.nn.layers import accumulation_dtype


def normalise(images, mean, std, dtype):
    """(pixel / 255 - mean) / std for uint8 images, in `dtype`; floating images count as normalised and are only cast."""
    if images.dtype != jnp.uint8:
        return images.astype(dtype)
    work = accumulation_dtype(dtype)
    scale = 1 / (255 * jnp.asarray(std, work))
    return (images.astype(work) * scale - jnp.asarray(mean, work) / jnp.asarray(std, work)).astype(dtype)
