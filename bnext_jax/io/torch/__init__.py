"""PyTorch state dicts to Flax NNX and back, and the files that hold them."""

from bnext_jax.io.torch.recognise import recognise, timm_names
from bnext_jax.io.torch.state_dict import from_state_dict, to_state_dict

__all__ = ["from_state_dict", "recognise", "timm_names", "to_state_dict"]
