"""Normalizes images for a network."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnext_jax.nn.layers import accumulation_dtype


def normalise(images: jax.Array | np.ndarray, mean: Sequence[float], std: Sequence[float], dtype: Any) -> jax.Array:
    """Normalizes uint8 images: (pixel / 255 - mean) / std. Floating images count as already normalized and are only cast.

    Args:
      images: [..., C], uint8 in 0 to 255, or any floating type.
      mean: one value per channel, on the scale 0 to 1.
      std: one value per channel, on the scale 0 to 1.
      dtype: floating type of the result. The arithmetic on uint8 images runs in at least float32.
    Returns:
      The shape of images, in `dtype`.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        return images.astype(dtype)
    work = accumulation_dtype(dtype)
    scale = 1 / (255 * jnp.asarray(std, work))
    return (images.astype(work) * scale - jnp.asarray(mean, work) / jnp.asarray(std, work)).astype(dtype)
