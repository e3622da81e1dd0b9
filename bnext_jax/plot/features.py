"""What a binary network sees: the signs that its binary convolutions multiply, channel by channel, and its latent weights by layer."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from bnext_jax.commands.predict import open_photo
from bnext_jax.data import preprocessing
from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.nn.binary_conv import BinaryConv
from bnext_jax.nn.normalise import normalise
from bnext_jax.plot.figures import picture_path, save, subplots, tidy

LONGEST = 1024  # pixels of an image's longer side; larger ones are made smaller
CHANNELS = 64  # of a layer, at most
LAYERS = 5  # drawn where none are named
NEGATIVE, ZERO, POSITIVE, GAP = (24, 32, 54), (190, 60, 60), (246, 240, 225), (120, 130, 145)  # colours, 0 to 255
BINS = 61


class Tap:
    """Stands for a convolution's input quantizer and keeps what it gives. quantizer: ActivationQuantizer. kept: {name: array}."""

    def __init__(self, quantizer, name, kept):
        self._quantizer, self._name, self._kept = quantizer, name, kept

    def __call__(self, x, shift=None):
        self._kept[self._name] = self._quantizer(x, shift)
        return self._kept[self._name]


def convolutions(model):
    """{name: BinaryConv} of those that quantize their input, in the order of their paths; a name is the path without "/conv" at its end."""
    found = {path: module for path, module in nnx.iter_modules(model) if isinstance(module, BinaryConv) and module.input_quantizer}
    ordered = sorted(found, key=lambda path: [(isinstance(part, str), part) for part in path])
    return {"/".join(map(str, path)).removesuffix("/conv"): found[path] for path in ordered}


def fitted(image, stride, longest=LONGEST):
    """An image whose sides a network can take: at most `longest` pixels, cropped about its centre to multiples of stride.

    image: uint8 [H,W,3]. Raises UserError where it is too small.
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


def signs(model, images, names):
    """What chosen binary convolutions multiply.

    Args:
      model: an evaluation view with arrays.
      images: [N,H,W,3], normalised.
      names: of convolutions.
    Returns:
      {name: int8 [N,H',W',C]}: -1 the quantizer's low level, +1 its high one, 0 another value (that at 0), in the order of paths.
    """
    graphdef, variables = nnx.split(model)
    known = {name: conv.input_quantizer for name, conv in convolutions(model).items()}

    @jax.jit
    def forward(variables, images):
        network, kept = nnx.merge(graphdef, variables), {}
        for name, conv in convolutions(network).items():
            if name in names:
                conv.input_quantizer = nnx.static(Tap(conv.input_quantizer, name, kept))
        network(images)
        return {name: level_of(maps, known[name].levels) for name, maps in kept.items()}

    found = forward(variables, images)
    return {name: np.asarray(found[name]) for name in known if name in names}


def level_of(maps, levels):
    """int8 of the shape of maps: -1 at the lower of two levels, +1 at the higher, 0 elsewhere."""
    low, high = levels
    return (maps == high).astype(jnp.int8) - (maps == low).astype(jnp.int8)


def grid(maps):
    """One picture of the channels of a layer: int8 [H,W,C] -> uint8 [*,*,3], at most CHANNELS of them, row by row in their order."""
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


def names_of_layers(model, layers=()):
    """The convolutions to draw: those named in `layers`; () = LAYERS of those with 3x3 kernels, [] where there are none.

    Raises UserError for one that the network does not have.
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


def features(words, checkpoint, layers=(), output=None):
    """Draws the binary feature maps of an image, and the latent weights' distribution in a picture beside it.

    Args:
      words: [an image file]. checkpoint: a work directory or PyTorch file. layers: names of convolutions, see convolutions; () = LAYERS of
      those with 3x3 kernels. output: see picture_path; None = features.png. The second picture has "_weights" before the ending.
    Returns:
      {"picture", "weights": paths, "layers": {name: share of +1}}.
    Raises:
      UserError: no image or one too small or unreadable, an unknown layer, a network without binary units.
    """
    path = picture_path(output or "features.png")
    if len(words) != 1:
        raise UserError(f"plot features needs one image, got {len(words)}")
    model, metadata = load(checkpoint)
    names = names_of_layers(model, layers)
    if not names:
        raise UserError(f"{checkpoint} holds {metadata['model']['name']}, which has no binary convolutions, so no binary feature maps")
    image = fitted(np.asarray(open_photo(words[0])), model.total_stride)
    kept = maps_of(model, metadata, image, names)
    return {
        "picture": draw_maps(image, kept, path, caption=f"{metadata['model']['name']}, {pathlib.Path(words[0]).name}"),
        "weights": weights(model, metadata, path.with_stem(path.stem + "_weights")),
        "layers": {name: float((maps > 0).mean()) for name, maps in kept.items()},
    }


def maps_of(model, metadata, image, names):
    """{name: int8 [H,W,C]}: the signs of one uint8 image [H,W,3], scaled as the network's metadata say; see signs."""
    scale = preprocessing.of(metadata)
    pixels = normalise(image[None], tuple(scale["mean"]), tuple(scale["std"]), np.dtype("float32"))
    return {name: maps[0] for name, maps in signs(model, pixels, names).items()}


def draw_maps(image, kept, path, caption):
    """Draws an image and the grids of its feature maps ({name: [H,W,C]}); returns the picture's path."""
    panels = len(kept) + 1
    columns = 2 if panels in (2, 4) else min(3, panels)
    rows = math.ceil(panels / columns)
    high = 5 * min(2.0, max(0.5, image.shape[0] / image.shape[1])) + 0.3  # inches, as the image is shaped
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


def weights(model, metadata, path):
    """Draws how the latent weights of each layer lie, within their bounds as far as they reach; returns the picture's path."""
    values = {name: np.asarray(conv.kernel[...]).ravel() for name, conv in convolutions(model).items()}
    bounds = [max(conv.kernel_quantizer.bounds) for conv in convolutions(model).values() if conv.kernel_quantizer.bounds]
    reach = min(*bounds, np.inf, 1.05 * max(np.quantile(np.abs(w), 0.999) for w in values.values()))
    edges = np.linspace(-reach, reach, BINS + 1)
    table = np.stack([np.histogram(np.clip(w, -reach, reach), edges)[0] / w.size for w in values.values()])
    figure, axis = subplots(1, 1, figsize=(8, 1.2 + 0.16 * len(values)))
    shown = axis.imshow(100 * table, aspect="auto", cmap="Blues", extent=(-reach, reach, len(values) - 0.5, -0.5), interpolation="nearest")
    temperature, label = metadata["temperature"], "latent weight"
    if 0 < temperature < reach:
        label += " (dashed: the temperature, beyond which a binary weight is ±1)"
        for side in (-temperature, temperature):
            axis.axvline(side, color="#1f5fa8", linewidth=1, linestyle="--")
    axis.set_yticks(range(len(values)), list(values), fontsize=6)
    axis.grid(visible=False)
    tidy(axis, f"latent weights by layer, at temperature {temperature:.3g}", label)
    figure.colorbar(shown, ax=axis, label="share of the layer's weights (%)", shrink=min(1.0, 20 / len(values)))
    return save(figure, path)
