"""PyTorch state dicts to Flax NNX and back."""

from bnext_jax.convert.state_dict import from_state_dict, to_state_dict

__all__ = ["from_state_dict", "to_state_dict"]
