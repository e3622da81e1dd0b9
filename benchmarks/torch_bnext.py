"""BNext for inference in PyTorch, with the names of the authors' state dict (docs/spec.md, sections 1 and 6).

A PyTorch file that bnext_jax writes loads into it with strict=True. From here a network can leave for other runtimes:

    python benchmarks/torch_bnext.py bnext_tiny.pth.tar bnext_tiny.onnx [PIXELS]

exports a network with exactly binary weights to ONNX; it needs the package onnx.
"""

import itertools
import json
import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional


class SqueezeExcitation(nn.Module):
    """Gate on channel means: [N,C,H,W] -> [N,C,1,1]."""

    def __init__(self, channels):
        super().__init__()
        squeezed = channels // 8
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return self.se(x)


class Temperature(nn.Module):
    """Holds a temperature under the authors' name; the activation's sign does not depend on it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.ones(1))


class BinaryConv(nn.Module):
    """Convolution with clip(w / T, -1, 1), or sign(w) below T = 1e-7; zero padding after the input's sign."""

    def __init__(self, channels, size, stride):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels, size, size))
        self.register_buffer("temperature", torch.ones(1))
        self.stride, self.exact = stride, None

    def forward(self, x):
        weight = self.exact
        if weight is None:
            soft = (self.weight / self.temperature.clamp(min=1e-8)).clamp(-1, 1)
            weight = torch.where(self.temperature < 1e-7, self.weight.sign(), soft)
        return functional.conv2d(x, weight, stride=self.stride, padding=self.weight.shape[-1] // 2)


class Bias(nn.Module):
    """Adds one number to each channel."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x):
        return x + self.bias


class Unit(nn.Module):
    """A feed-forward unit, or, with `attends`, an ELM attention unit."""

    def __init__(self, channels, size, stride=1, attends=False):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))
        self.move, self.binary_activation, self.binary_conv = Bias(channels), Temperature(), BinaryConv(channels, size, stride)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.activation1, self.activation2 = nn.PReLU(channels), nn.PReLU(channels)
        self.se = SqueezeExcitation(channels)
        self.stride, self.attends = stride, attends

    def pooled(self, x):
        return functional.avg_pool2d(x, 2) if self.stride == 2 else x

    def forward(self, x):
        y = self.activation2(self.norm1(self.binary_conv(self.move(x).sign())))
        gated = self.se(self.scale * self.pooled(x) + (1 - self.scale) * y) * y
        if self.attends:
            residual = self.pooled(self.activation1(x))
            return self.norm2(gated * residual) + residual
        return self.norm2(gated) + self.pooled(x)


class Block(nn.Module):
    """A 3x3 unit, then one 1x1 unit, or two whose outputs are concatenated."""

    def __init__(self, inputs, features, stride, attends):
        super().__init__()
        self.Attention = Unit(inputs, 3, stride, attends)
        self.names = ["FFN"] if inputs == features else ["FFN_1", "FFN_2"]
        for name in self.names:
            self.add_module(name, Unit(inputs, 1))

    def forward(self, x):
        x = self.Attention(x)
        return torch.cat([getattr(self, name)(x) for name in self.names], 1)


class Stem(nn.Module):
    """Real 3x3 convolution and batch norm; the authors' PReLU is never used."""

    def __init__(self, channels, stride):
        super().__init__()
        self.conv1, self.bn1, self.prelu = nn.Conv2d(3, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels)

    def forward(self, x):
        return self.bn1(self.conv1(x))


class BNext(nn.Module):
    """Images [N,3,H,W], normalized -> logits [N,classes].

    Args:
      widths: the stem's, then one a block.
      classes: outputs of the classifier.
      stem_stride: 1 or 2.
    """

    def __init__(self, widths, classes, stem_stride):
        super().__init__()
        blocks = [Stem(widths[0], stem_stride)]
        for i, (inputs, features) in enumerate(itertools.pairwise(widths), start=1):
            blocks.append(Block(inputs, features, 2 if features != inputs and i > 1 else 1, attends=i % 2 == 0))
        self.feature = nn.Sequential(*blocks)
        self.prelu, self.fc = nn.PReLU(widths[-1]), nn.Linear(widths[-1], classes)

    def forward(self, x):
        return self.fc(self.prelu(self.feature(x)).mean((2, 3)))

    def fixed(self):
        """Computes the binary weights once, for inference. Returns the module."""
        for module in self.modules():
            if isinstance(module, BinaryConv):
                module.exact = module.weight.detach().sign()
        return self.eval()


def from_file(path):
    """The BNext in a PyTorch file that bnext_jax wrote, in evaluation mode: its state dict fits name by name."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    tensors = content.get("state_dict", content)
    count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("feature."))
    widths = [tensors["feature.0.conv1.weight"].shape[0]]
    widths += [tensors[f"feature.{i}.Attention.move.bias"].shape[1] for i in range(2, count)] + [tensors["prelu.weight"].shape[0]]
    classes = tensors["fc.weight"].shape[0]
    described = json.loads(content.get("bnext_jax", "{}"))  # no tensor says the stem's stride
    stride = described.get("arguments", {}).get("stem_stride") or (2 if classes == 1000 else 1)
    model = BNext(widths, classes, stride)
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def main(source, target, pixels="224"):
    """Exports a network with exactly binary weights to ONNX."""
    model = from_file(source)
    if max(float(module.temperature) for module in model.modules() if isinstance(module, BinaryConv)) >= 1e-7:
        sys.exit(f"{source}: its weights are not exactly binary yet")
    images = torch.zeros(1, 3, int(pixels), int(pixels))
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(model.fixed(), images, target, input_names=["images"], output_names=["logits"], dynamic_axes=axes, dynamo=False)
    print(f"{target}: {pathlib.Path(target).stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
