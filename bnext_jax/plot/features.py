"""Draws the binary feature maps of a network, one picture a channel, and the distribution of its latent weights by layer.

A binary feature map is the input of a binary convolution after its quantizer: the signs that the convolution multiplies.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from bnext_jax.data import preprocessing
from bnext_jax.data.decode.photo import Photo, use_photo
from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.normalise import normalise
from bnext_jax.nn.quantizers import ActivationQuantizer
from bnext_jax.plot.figures import picture_path, save, subplots, tidy

LONGEST = 1024  # pixels of an image's longer side; larger images are scaled down
CHANNELS = 64  # channels drawn of one layer, at most
LAYERS = 5  # layers drawn where none are named
NEGATIVE, ZERO, POSITIVE, GAP = (24, 32, 54), (190, 60, 60), (246, 240, 225), (120, 130, 145)  # RGB colors, 0 to 255
BINS = 61


class Tap:
    """Replaces the input quantizer of a convolution: computes the same and keeps the result.

    Args:
      quantizer: the convolution's input quantizer.
      name: key of the result.
      kept: dict that receives the result.
    """

    def __init__(self, quantizer: ActivationQuantizer, name: str, kept: dict[str, jax.Array]) -> None:
        self._quantizer, self._name, self._kept = quantizer, name, kept

    def __call__(self, x: jax.Array, shift: jax.Array | None = None) -> jax.Array:
        """The quantizer's result, see ActivationQuantizer."""
        self._kept[self._name] = self._quantizer(x, shift)
        return self._kept[self._name]


def convolutions(model: nnx.Module) -> dict[str, BinaryConv]:
    """The convolutions that make their input binary.

    Args:
      model: a network, abstract or not.
    Returns:
      {name: BinaryConv} in the order of the paths. A name is the module's path without "/conv" at its end.
    """
    convs = [(path, module) for path, module in nnx.iter_modules(model) if isinstance(module, BinaryConv) and module.input_quantizer]
    found = {path: conv for path, conv in convs if conv.input_quantizer.levels}  # type: ignore[union-attr]  # it has one
    ordered = sorted(found, key=lambda path: [(isinstance(part, str), part) for part in path])
    return {"/".join(map(str, path)).removesuffix("/conv"): found[path] for path in ordered}


def fitted(image: np.ndarray, stride: int, longest: int = LONGEST) -> np.ndarray:
    """Scales an image down and crops it to a size that a network takes.

    Args:
      image: uint8 [H, W, 3].
      stride: the network's total stride in pixels; both sides become multiples of it.
      longest: pixels of the longer side, at most.
    Returns:
      uint8 [H', W', 3], cropped about the center.
    Raises:
      UserError: a side, once scaled down, is shorter than the stride.
    """
    height, width = image.shape[:2]
    if max(height, width) > longest:
        factor = longest / max(height, width)
        height, width = max(1, round(height * factor)), max(1, round(width * factor))
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = height // stride * stride, width // stride * stride
    if not rows or not columns:
        raise UserError(f"the image has {width}x{height} pixels, the network needs sides of {stride} or more")
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top : top + rows, left : left + columns]


def signs(model: nnx.Module, images: np.ndarray | jax.Array, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Computes the binary inputs of chosen convolutions.

    Args:
      model: a network in evaluation mode, with arrays.
      images: [N, H, W, 3], normalized.
      names: names of convolutions, see convolutions.
    Returns:
      {name: int8 [N, H', W', C]} in the order of the paths: -1 at the quantizer's low level, +1 at its high level, 0 at any other value
      (the value that some quantizers give at 0).
    """
    graphdef, variables = nnx.split(model)
    known: dict[str, Any] = {name: conv.input_quantizer for name, conv in convolutions(model).items()}

    @jax.jit
    def forward(variables, images):
        kept: dict[str, jax.Array]
        network, kept = nnx.merge(graphdef, variables), {}
        for name, conv in convolutions(network).items():
            if name in names:
                conv.input_quantizer = nnx.static(Tap(known[name], name, kept))  # type: ignore[assignment]
        network(images)
        return {name: level_of(maps, known[name].levels) for name, maps in kept.items()}

    found = forward(variables, images)
    return {name: np.asarray(found[name]) for name in known if name in names}


def level_of(maps: jax.Array, levels: tuple[float, float]) -> jax.Array:
    """Maps two levels to signs.

    Args:
      maps: values of any shape.
      levels: (low, high).
    Returns:
      int8 of the same shape: -1 at the low level, +1 at the high level, 0 elsewhere.
    """
    low, high = levels
    return (maps == high).astype(jnp.int8) - (maps == low).astype(jnp.int8)


def grid(maps: np.ndarray) -> np.ndarray:
    """Tiles the channels of one layer into one picture, row by row in their order.

    Args:
      maps: int8 [H, W, C] of -1, 0 and +1; only the first CHANNELS channels are drawn.
    Returns:
      uint8 [rows * (H + gap) + gap, columns * (W + gap) + gap, 3].
    """
    height, width, channels = maps.shape
    shown = min(channels, CHANNELS)
    columns = math.ceil(math.sqrt(shown * height / width))
    rows = math.ceil(shown / columns)
    gap = max(1, width // 32)
    picture = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    picture[...] = GAP
    colours = np.array([NEGATIVE, ZERO, POSITIVE], np.uint8)
    for channel in range(shown):
        row, column = divmod(channel, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        picture[top : top + height, left : left + width] = colours[maps[..., channel] + 1]
    return picture


def names_of_layers(model: nnx.Module, layers: Sequence[str] = ()) -> list[str]:
    """The names of the convolutions to draw.

    Args:
      model: a network.
      layers: names of convolutions, with or without "/conv"; () = LAYERS of the convolutions whose kernel is larger than 1x1, evenly
        spaced.
    Returns:
      Names as convolutions gives them; [] where none are named and the network has no such convolution.
    Raises:
      UserError: the network has no convolution of a given name.
    """
    known = convolutions(model)
    if layers:
        names = [name.removesuffix("/conv") for name in layers]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"there is no binary unit {', '.join(unknown)}; the network has: {', '.join(known) or 'none'}")
        return names
    spatial = [name for name, conv in known.items() if conv.kernel.shape[0] > 1]
    return [spatial[round(i)] for i in np.linspace(0, len(spatial) - 1, min(LAYERS, len(spatial)))]


def features(
    words: Sequence[str], checkpoint: os.PathLike | str, layers: Sequence[str] = (), output: os.PathLike | str | None = None
) -> dict[str, Any]:
    """Draws the binary feature maps of an image, and the distribution of the latent weights in a second picture.

    Args:
      words: one image file.
      checkpoint: a work directory or a PyTorch file.
      layers: names of convolutions, see names_of_layers.
      output: path of the first picture, see picture_path; None = features.png. The second picture has "_weights" before the ending.
    Returns:
      {"picture": path, "weights": path, "layers": {name: share of +1, from 0 to 1}}.
    Raises:
      UserError: not exactly one image, an image that is too small or unreadable, an unknown layer, a network without binary
        convolutions.
    """
    path = picture_path(output or "features.png")
    if len(words) != 1:
        raise UserError(f"plot features needs one image, got {len(words)}")
    model, metadata = load(checkpoint, form="float")
    names = names_of_layers(model, layers)
    if not names:
        raise UserError(f"{checkpoint} holds {metadata['model']['name']}, which has no binary convolutions, so no binary feature maps")
    image = fitted(use_photo(words[0], Photo.pixels, upright=preprocessing.upright(metadata["preprocessing"])), model.total_stride)
    kept = maps_of(model, metadata, image, names)
    return {
        "picture": draw_maps(image, kept, path, caption=f"{metadata['model']['name']}, {pathlib.Path(words[0]).name}"),
        "weights": weights(model, metadata, path.with_stem(path.stem + "_weights")),
        "layers": {name: float((maps > 0).mean()) for name, maps in kept.items()},
    }


def maps_of(model: nnx.Module, metadata: Mapping[str, Any], image: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Computes the binary feature maps of one image, see signs.

    Args:
      model: a network in evaluation mode, with arrays.
      metadata: the network's metadata; its preprocessing normalizes the image.
      image: uint8 [H, W, 3].
      names: names of convolutions.
    Returns:
      {name: int8 [H', W', C]}.
    """
    scale = preprocessing.of(metadata)
    pixels = normalise(image[None], tuple(scale["mean"]), tuple(scale["std"]), np.dtype("float32"))
    return {name: maps[0] for name, maps in signs(model, pixels, names).items()}


def draw_maps(image: np.ndarray, kept: Mapping[str, np.ndarray], path: pathlib.PurePath, caption: str) -> str:
    """Draws an image and the grids of its feature maps.

    Args:
      image: uint8 [H, W, 3].
      kept: {name: int8 [H', W', C]}, see maps_of.
      path: where to write the picture.
      caption: text above the image.
    Returns:
      The picture's path.
    """
    panels = len(kept) + 1
    columns = 2 if panels in (2, 4) else min(3, panels)
    rows = math.ceil(panels / columns)
    high = 5 * min(2.0, max(0.5, image.shape[0] / image.shape[1])) + 0.3  # inches; follows the image's aspect ratio
    figure, axes = subplots(rows, columns, figsize=(5 * columns, high * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[0].imshow(image)
    axes.flat[0].set_title(f"{caption}, {image.shape[1]}x{image.shape[0]}", fontsize=9)
    for axis, (name, maps) in zip(axes.flat[1:], kept.items(), strict=False):
        height, width, channels = maps.shape
        axis.imshow(grid(maps), interpolation="antialiased")
        shown = f"{CHANNELS} of {channels}" if channels > CHANNELS else f"{channels}"
        axis.set_title(f"{name}: {shown} channels, {width}x{height}, {100 * (maps > 0).mean():.0f} % at +1", fontsize=9)
    return save(figure, path)


def kind_of_weights(model: nnx.Module) -> str:
    """ "latent", or "real" in a network whose binary convolutions have real weights yet (models.stages)."""
    return "latent" if all(conv.kernel_quantizer.bits == 1 for conv in convolutions(model).values()) else "real"


def weights(model: nnx.Module, metadata: Mapping[str, Any], path: pathlib.PurePath) -> str:
    """Draws the distribution of the latent weights, one row a layer.

    The horizontal axis ends at the quantizers' bounds, or earlier where the weights do not reach the bounds. Weights beyond the axis
    count in the outermost bins.

    Args:
      model: a network with binary convolutions, with arrays.
      metadata: the network's metadata; its temperature, if it has one, is drawn as two dashed lines where it lies within the axis.
      path: where to write the picture.
    Returns:
      The picture's path.
    """
    values = {name: np.asarray(conv.kernel[...]).ravel() for name, conv in convolutions(model).items()}
    bounds = [max(conv.kernel_quantizer.bounds) for conv in convolutions(model).values() if conv.kernel_quantizer.bounds]
    reach = min(*bounds, np.inf, 1.05 * max(np.quantile(np.abs(w), 0.999) for w in values.values()))
    edges = np.linspace(-reach, reach, BINS + 1)
    table = np.stack([np.histogram(np.clip(w, -reach, reach), edges)[0] / w.size for w in values.values()])
    figure, axis = subplots(1, 1, figsize=(8, 1.2 + 0.16 * len(values)))
    shown = axis.imshow(100 * table, aspect="auto", cmap="Blues", extent=(-reach, reach, len(values) - 0.5, -0.5), interpolation="nearest")
    temperature, kind = metadata["temperature"], kind_of_weights(model)
    label = f"{kind} weight"
    if temperature is not None and 0 < temperature < reach:
        label += " (dashed: the temperature, beyond which a binary weight is ±1)"
        for side in (-temperature, temperature):
            axis.axvline(side, color="#1f5fa8", linewidth=1, linestyle="--")
    axis.set_yticks(range(len(values)), list(values), fontsize=6)
    axis.grid(visible=False)
    tidy(axis, f"{kind} weights by layer" + ("" if temperature is None else f", at temperature {temperature:.3g}"), label)
    figure.colorbar(shown, ax=axis, label="share of the layer's weights (%)", shrink=min(1.0, 20 / len(values)))
    return save(figure, path)
