"""Draws a contact sheet of the augmentation: raw images, the images that evaluation sees, and the images that training sees."""

import os
import random
from typing import TYPE_CHECKING

import numpy as np

from bnext_jax.data import splits
from bnext_jax.data.augment.transforms import Transform, pixels_of, randaugment
from bnext_jax.data.datasets import imagenet
from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.data.pipeline import augmentation_rng
from bnext_jax.errors import UserError
from bnext_jax.plot.figures import picture_path, save, subplots

if TYPE_CHECKING:
    from bnext_jax.config import Config

ROWS, AUGMENTED = 6, 6  # images, and augmented versions of each
INCHES = 1.6  # side of one image
SHORT = {"PosterizeIncreasing": "Posterize", "SolarizeIncreasing": "Solarize", "TranslateXRel": "TranslateX", "TranslateYRel": "TranslateY"}


def augmentation(config: "Config", output: os.PathLike | str | None = None) -> str:
    """Draws images of the training split, one row an image.

    A row shows the raw image, the image after the evaluation transform, and the augmented image of each of the first epochs. The
    titles give RandAugment's draws.

    Args:
      config: a checked Config.
      output: the picture's path, see picture_path; None = augmentation.png.
    Returns:
      The picture's path.
    Raises:
      UserError: the dataset is missing, no image can be decoded, or the picture cannot be written.
    """
    path = picture_path(output or "augmentation.png")
    source = splits.open_source(config.data, config.data.train_split)
    train, evaluation = Transform(config.data.train_transform), Transform(config.data.eval_transform)
    rows: list[list[tuple[np.ndarray, str]]] = []
    for index in np.random.default_rng(config.seed).permutation(len(source)):
        if len(rows) < ROWS:
            try:
                rows.append(_row(source, int(index), train, evaluation, config.seed))
            except Undecodable:
                continue
    if not rows:
        raise UserError(f"no image of {source.name}'s {source.split} split can be decoded; prepare the dataset again")
    figure, axes = subplots(len(rows), AUGMENTED + 2, figsize=(INCHES * (AUGMENTED + 2), (INCHES + 0.25) * len(rows) + 0.5))
    for line, row in zip(np.atleast_2d(axes), rows, strict=True):
        for axis, (image, text) in zip(line, row, strict=True):
            axis.imshow(image)
            axis.set_title(text, fontsize=6)
            axis.axis("off")
    shown = f"train: {config.data.train_transform or 'as it is'}     evaluation: {config.data.eval_transform or 'as it is'}"
    figure.suptitle(shown, fontsize=8)
    return save(figure, path)


def _row(source: splits.Source, index: int, train: Transform, evaluation: Transform, seed: int) -> list[tuple[np.ndarray, str]]:
    """One row as [(image, title), ...]: raw, evaluated, then augmented once an epoch."""
    image, label = source.example(index)
    raw = pixels_of(image)
    name = imagenet.readable(source.class_names, len(source.class_names))[label]
    cells = [(raw, f"{name}, {raw.shape[1]}x{raw.shape[0]}"), (evaluation(image, None), "evaluation")]
    return cells + [_augmented(train, image, augmentation_rng(seed, epoch, index), epoch) for epoch in range(AUGMENTED)]


def _augmented(transform: Transform, image: "np.ndarray | Photo", rng: random.Random, epoch: int) -> tuple[np.ndarray, str]:
    """Applies the transform step by step; returns (image, title). The title lists RandAugment's draws.

    The draws are read ahead with the same random state, which is then set back. So the image is the one that training sees.
    """
    drawn: list[tuple[str, float | None]] = []
    for function, arguments in transform.steps:
        if function is randaugment:
            before = rng.getstate()
            drawn += arguments[0].draw(rng)
            rng.setstate(before)
        image = function(image, rng, *arguments)
    text = "\n".join(SHORT.get(name, name.removesuffix("Increasing")) + _shown(argument) for name, argument in drawn)
    return np.asarray(pixels_of(image)), text or f"epoch {epoch}"


def _shown(argument: float | None) -> str:
    return "" if argument is None else f" {argument:.3g}"
