"""BNext for inference in PyTorch, with the names of the authors' state dict (docs/spec.md, sections 1 and 6).

A state dict that bnext_jax writes loads into it with strict=True. `bench` measures it, and from here a network can leave for other
runtimes. This module needs PyTorch; no other module of bnext_jax imports it at its top.
"""

import itertools
import json
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

EXACT_BELOW = 1e-7  # temperature


class SqueezeExcitation(nn.Module):
    """Gate on channel means: [N,C,H,W] -> [N,C,1,1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 8
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N,C,H,W] to factors [N,C,1,1]."""
        return self.se(x)


class Temperature(nn.Module):
    """Holds a temperature under the authors' name; the activation's sign does not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(1))


class BinaryConv(nn.Module):
    """Convolution with clip(w / T, -1, 1), or sign(w) below T = EXACT_BELOW; zero padding after the input's sign."""

    temperature: Tensor

    def __init__(self, inputs: int, features: int, size: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, inputs, size, size))
        self.register_buffer("temperature", torch.ones(1))
        self.stride = stride
        self.exact: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Convolves signs [N,C,H,W]."""
        weight = self.exact
        if weight is None:
            soft = (self.weight / self.temperature.clamp(min=1e-8)).clamp(-1, 1)
            weight = torch.where(self.temperature < EXACT_BELOW, self.weight.sign(), soft)
        return functional.conv2d(x, weight, stride=self.stride, padding=self.weight.shape[-1] // 2)


class Bias(nn.Module):
    """Adds one number to each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Adds the bias to [N,C,H,W]."""
        return x + self.bias


class Unit(nn.Module):
    """A feed-forward unit, or, with `attends`, an ELM attention unit.

    Args:
      inputs: input channels.
      features: output channels. They differ from `inputs` only in BNext-18's attention.
      size: side of the kernel, 1 or 3.
      stride: 1 or 2.
      attends: True for ELM attention.
      downsample: the shortcut of BNext-18's attention. With `mixes_residual` its gate mixes the residual with y, not the input.
      mixes_residual: True in BNext-18's attention.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        size: int,
        stride: int = 1,
        attends: bool = False,
        downsample: nn.Module | None = None,
        mixes_residual: bool = False,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, features, 1, 1), 0.5))
        self.move, self.binary_activation, self.binary_conv = Bias(inputs), Temperature(), BinaryConv(inputs, features, size, stride)
        self.norm1, self.norm2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        self.activation1, self.activation2 = nn.PReLU(inputs), nn.PReLU(features)
        self.se = SqueezeExcitation(features)
        if downsample is not None:
            self.downsample = downsample
        self.stride, self.attends, self.mixes_residual = stride, attends, mixes_residual

    def pooled(self, x: Tensor) -> Tensor:
        """Average-pools 2x2 where the unit has stride 2."""
        return functional.avg_pool2d(x, 2) if self.stride == 2 else x

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N,C,H,W] to [N,C',H/stride,W/stride]."""
        y = self.activation2(self.norm1(self.binary_conv(self.move(x).sign())))
        residual = self.pooled(x)
        if self.attends:
            residual = self.activation1(x)
            residual = self.downsample(residual) if hasattr(self, "downsample") else self.pooled(residual)
        mixed = residual if self.mixes_residual else self.pooled(x)
        gated = self.se(self.scale * mixed + (1 - self.scale) * y) * y
        return self.norm2(gated * residual) + residual if self.attends else self.norm2(gated) + residual


class Block(nn.Module):
    """A 3x3 unit, then one 1x1 unit, or two whose outputs are concatenated."""

    def __init__(self, inputs: int, features: int, stride: int, attends: bool) -> None:
        super().__init__()
        self.Attention = Unit(inputs, inputs, 3, stride, attends)
        self.names = ["FFN"] if inputs == features else ["FFN_1", "FFN_2"]
        for name in self.names:
            self.add_module(name, Unit(inputs, inputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N,C,H,W] to [N,C',H/stride,W/stride]."""
        x = self.Attention(x)
        return torch.cat([getattr(self, name)(x) for name in self.names], 1)


class Stem(nn.Module):
    """Real 3x3 convolution and batch norm; the authors' PReLU is never used."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.prelu = nn.Conv2d(3, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images [N,3,H,W] to [N,C,H/stride,W/stride]."""
        return self.bn1(self.conv1(x))


class Network(nn.Module):
    """What both networks share."""

    def fixed(self) -> "Network":
        """Computes the binary weights once, for inference. Returns the network in evaluation mode."""
        for module in self.modules():
            if isinstance(module, BinaryConv):
                module.exact = module.weight.detach().sign()
        return self.eval()


class BNext(Network):
    """BNext-T, S, M, L, or one of other widths. Images [N,3,H,W], normalized -> logits [N,classes].

    Args:
      widths: the stem's, then one a block.
      classes: outputs of the classifier.
      stem_stride: 1 or 2.
    """

    def __init__(self, widths: Sequence[int], classes: int, stem_stride: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [Stem(widths[0], stem_stride)]
        for i, (inputs, features) in enumerate(itertools.pairwise(widths), start=1):
            blocks.append(Block(inputs, features, 2 if features != inputs and i > 1 else 1, attends=i % 2 == 0))
        self.feature = nn.Sequential(*blocks)
        self.prelu, self.fc = nn.PReLU(widths[-1]), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the logits."""
        return self.fc(self.prelu(self.feature(x)).mean((2, 3)))


class Block18(nn.Module):
    """An attention unit, which applies the stride and the widening, then a 3x3 feed-forward unit."""

    def __init__(self, inputs: int, features: int, stride: int) -> None:
        super().__init__()
        shortcut = None
        if stride != 1 or inputs != features:
            shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, features, 1, bias=False), nn.BatchNorm2d(features))
        self.Attention = Unit(inputs, features, 3, stride, attends=True, downsample=shortcut, mixes_residual=True)
        self.FFN = Unit(features, features, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N,C,H,W] to [N,C',H/stride,W/stride]."""
        return self.FFN(self.Attention(x))


class BNext18(Network):
    """BNext-18. Images [N,3,H,W], normalized -> logits [N,classes].

    Args:
      widths: channels of each stage.
      classes: outputs of the classifier.
      stem_stride: 2 = the stem for ImageNet, with a pool; 1 = that for small images.
    """

    def __init__(self, widths: Sequence[int], classes: int, stem_stride: int) -> None:
        super().__init__()
        size = 7 if stem_stride == 2 else 3
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], size, stem_stride, size // 2, bias=False), nn.BatchNorm2d(widths[0])
        self.pool = nn.MaxPool2d(3, 2, 1) if stem_stride == 2 else nn.Identity()
        inputs = widths[0]
        for i, features in enumerate(widths):
            blocks = [Block18(inputs if j == 0 else features, features, 2 if i and j == 0 else 1) for j in range(2)]
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            inputs = features
        self.stages = len(widths)
        self.prelu, self.fc = nn.PReLU(widths[-1]), nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the logits."""
        x = self.pool(self.bn1(self.conv1(x)))
        for i in range(self.stages):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(self.prelu(x).mean((2, 3)))


def from_tensors(tensors: Mapping[str, Tensor], stem_stride: int | None = None) -> Network:
    """Builds the network of a state dict, in evaluation mode. Its names fit one by one.

    Args:
      tensors: {PyTorch name: tensor} of a BNext or a BNext-18, float gates, both parts of the paper (no ablation).
      stem_stride: 1 or 2; no tensor tells it. None = 2 with 1000 classes, else 1.
    """
    classes = tensors["fc.weight"].shape[0]
    stride = stem_stride or (2 if classes == 1000 else 1)
    model: Network
    if "conv1.weight" in tensors:
        stages = 1 + max(int(name[len("layer")]) for name in tensors if name.startswith("layer"))
        model = BNext18([tensors[f"layer{i}.0.FFN.move.bias"].shape[1] for i in range(stages)], classes, stride)
    else:
        count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("feature."))
        widths = [tensors["feature.0.conv1.weight"].shape[0]]
        widths += [tensors[f"feature.{i}.Attention.move.bias"].shape[1] for i in range(2, count)] + [tensors["prelu.weight"].shape[0]]
        model = BNext(widths, classes, stride)
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def from_file(path: os.PathLike | str) -> Network:
    """The network in a PyTorch file that bnext_jax wrote, in evaluation mode. See from_tensors."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    described = json.loads(content.get("bnext_jax", "{}"))
    return from_tensors(content.get("state_dict", content), described.get("arguments", {}).get("stem_stride"))


def is_exact(model: Network) -> bool:
    """Whether all binary weights are exact signs at the temperature of their layers."""
    return all(float(module.temperature) < EXACT_BELOW for module in model.modules() if isinstance(module, BinaryConv))


def to_onnx(model: Network, pixels: int, path: os.PathLike | str) -> None:
    """Writes a network as an ONNX file in float32. Needs the package onnx.

    Args:
      model: the network, after `fixed`.
      pixels: height and width of an image.
      path: the file to write. Its input is "images" [N,3,pixels,pixels], its output "logits" [N,classes].
    """
    images = torch.zeros(1, 3, pixels, pixels)
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(model, (images,), str(path), input_names=["images"], output_names=["logits"], dynamic_axes=axes, dynamo=False)
