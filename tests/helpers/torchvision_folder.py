"""torchvision's ImageFolder, for comparison. It is plain Python; torchvision's compiled operators need not fit the installed torch."""

import sys

import torch

_operators = []  # keeps the declared operators alive


def image_folder(root):
    """Returns torchvision.datasets.ImageFolder(root)."""
    try:
        from torchvision.datasets import ImageFolder
    except RuntimeError:  # the operators are missing. torchvision only registers formulas for these two; declared, they are enough
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _operators.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _operators[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision.datasets import ImageFolder
    return ImageFolder(root)
