"""A contact sheet of the recipe: images as they are, as evaluation sees them, and as training does."""

import numpy as np

from bnext_jax.data import splits
from bnext_jax.data.augment.transforms import Transform, randaugment
from bnext_jax.data.datasets import imagenet
from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.data.pipeline import augmentation_rng
from bnext_jax.errors import UserError
from bnext_jax.plot.figures import picture_path, save, subplots

ROWS, AUGMENTED = 6, 6
INCHES = 1.6  # an image's side
SHORT = {"PosterizeIncreasing": "Posterize", "SolarizeIncreasing": "Solarize", "TranslateXRel": "TranslateX", "TranslateYRel": "TranslateY"}


def augmentation(config, output=None):
    """Draws images of the training split: raw, evaluated, and augmented in the run's first epochs, with RandAugment's draws.

    Args:
      config: a checked Config. output: see picture_path; None = augmentation.png.
    Returns:
      The picture's path.
    Raises:
      UserError: no dataset, no image that can be decoded, or the picture cannot be written.
    """
    path = picture_path(output or "augmentation.png")
    source = splits.open_source(config.data, config.data.train_split)
    train, evaluation = Transform(config.data.train_transform), Transform(config.data.eval_transform)
    rows = []
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


def _row(source, index, train, evaluation, seed):
    """[(image, text), ...] of one image: raw, evaluated, augmented."""
    image, label = source.example(index)
    raw = image.pixels() if isinstance(image, Photo) else image
    name = imagenet.readable(source.class_names, len(source.class_names))[label]
    cells = [(raw, f"{name}, {raw.shape[1]}x{raw.shape[0]}"), (evaluation(image, None), "evaluation")]
    return cells + [_augmented(train, image, augmentation_rng(seed, epoch, index), epoch) for epoch in range(AUGMENTED)]


def _augmented(transform, image, rng, epoch):
    """(image, text): what Transform does, step by step, with RandAugment's draws looked up on the way."""
    drawn = []
    for function, arguments in transform.steps:
        if function is randaugment:
            before = rng.getstate()
            drawn += arguments[0].draw(rng)
            rng.setstate(before)
        image = function(image, rng, *arguments)
    text = "\n".join(SHORT.get(name, name.removesuffix("Increasing")) + _shown(argument) for name, argument in drawn)
    return np.asarray(image.pixels() if isinstance(image, Photo) else image), text or f"epoch {epoch}"


def _shown(argument):
    return "" if argument is None else f" {argument:.3g}"
