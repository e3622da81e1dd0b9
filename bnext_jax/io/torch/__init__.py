"""PyTorch state dicts and the files that hold them, to ours and back."""
