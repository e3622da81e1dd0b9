"""A small form of each of the eight networks, three blocks deep, for images of 16x16 pixels with the CIFAR stem."""

FRAME = {"widths": (16, 32, 64), "depth": 1}
SMALL = {
    "bnn18": FRAME,
    "xnornet18": FRAME,
    "birealnet18": FRAME,
    "real_to_binary": FRAME,
    "strong_baseline": {**FRAME, "resolution": 16},
    "reactnet18": FRAME,
    "reactnet_a": {"widths": (16, 32, 64, 64)},
    "meliusnet": {"blocks": (1, 1, 1), "transitions": (32, 32), "growth": 16, "stem_width": 16},
    "pokebnn": {"multiplier": 0.25, "depths": (1, 1, 1), "widths": (32, 64, 128), "bounds_from_step": 30, "quantized_from_epoch": 2},
}
