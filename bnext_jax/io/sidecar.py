"""What others say of a network's preprocessing: the flag --preprocessing, and the JSON files that timm and transformers put beside weights.

timm's config.json has the size and crop for tests where they differ from those for training; the size for tests is used, as timm's
validation does.
"""

import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from bnext_jax.data.preprocessing import Given
from bnext_jax.distill.roster import IMAGENET_MEAN, IMAGENET_STD
from bnext_jax.errors import UserError, nearest, one_line
from bnext_jax.io import buckets
from bnext_jax.io.paths import to_path

log = logging.getLogger(__name__)
FLAG = "--preprocessing"
TIMM, TRANSFORMERS = "config.json", "preprocessor_config.json"
KEYS = ("mean", "std", "input_size", "crop_pct")  # timm's names
SQUASHED = 384  # pixels; transformers' ConvNeXt does not crop images of this size or larger
BICUBIC = (3, "bicubic")  # Pillow's number, timm's name
LARGEST = 10_000  # pixels
FEWEST, MOST = 1e-6, 1.0  # of a standard deviation of pixels in [0, 1]


def _number(value):
    if isinstance(value, list) and len(value) == 1:  # of a flag
        (value,) = value
    if type(value) not in (int, float):
        raise ValueError(f"{one_line(value, 40)} is not a number")
    return float(value)


def _three(value, lowest):
    """A mean or a std, of one number or three."""
    numbers = [_number(part) for part in (value if isinstance(value, list | tuple) else [value])]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(lowest <= number <= MOST for number in numbers):
        raise ValueError(f"{one_line(value, 60)} is not three numbers from {lowest:g} to {MOST:g}, of pixels in [0, 1]")
    return tuple(numbers)


def _pixels(value):
    """The side of a square image: N, [N, N], [3, N, N], {"shortest_edge": N} or {"height": N, "width": N}."""
    parts = list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list | tuple) else [value]
    sides = {part for part in parts[-2:] if type(part) is int and 1 <= part <= LARGEST}
    if len(sides) != 1 or len(parts) > 3 or (len(parts) == 3 and parts[0] != 3):
        raise ValueError(f"{one_line(value, 60)} is not the size of a square image with three channels")
    return sides.pop()


def _share(value):
    number = _number(value)
    if not 0.05 <= number <= 1:
        raise ValueError(f"{number} is not a share from 0.05 to 1")
    return number


def _timm(content, source):
    said = content.get("pretrained_cfg") or content  # in old files all entries are at the top
    if said.get("interpolation", "bicubic") not in BICUBIC or said.get("crop_mode", "center") != "center":
        _differs(source, f"interpolation {said.get('interpolation', 'bicubic')}, crop_mode {said.get('crop_mode', 'center')}")
    return Given(
        source,
        _three(said.get("mean", IMAGENET_MEAN), 0),
        _three(said.get("std", IMAGENET_STD), FEWEST),
        _pixels(said.get("test_input_size") or said.get("input_size", 224)),
        None,
        _share(said.get("test_crop_pct") or said.get("crop_pct", 0.875)),
        content.get("architecture") or said.get("architecture"),
        content.get("num_classes") or said.get("num_classes"),
    )


def _transformers(content, source):
    factor = content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1
    if abs(factor * 255 - 1) > 1e-3 or content.get("rescale_offset"):
        raise ValueError("it does not scale pixels by 1/255")
    scaled = content.get("do_normalize", True)
    if not content.get("do_resize", True):
        raise ValueError("it does not resize images")
    side, squashed = _pixels(content["size"]), False
    if "crop_pct" in content and content["crop_pct"] is not None:
        squashed = side >= SQUASHED
        size, resized = side, side if squashed else int(side / _share(content["crop_pct"]))
    elif content.get("do_center_crop") and "crop_size" in content:
        size, resized = _pixels(content["crop_size"]), side
    else:
        size, resized, squashed = side, side, not (isinstance(content["size"], dict) and "shortest_edge" in content["size"])
    if squashed or content.get("resample", 3) not in BICUBIC:
        _differs(source, f"resample {content.get('resample', 3)}" + (", without keeping the proportions" if squashed else ""))
    mean, std = (content["image_mean"], content["image_std"]) if scaled else (0, 1)
    return Given(source, _three(mean, 0), _three(std, FEWEST), size, resized)


def _differs(source, how):
    log.warning("%s resizes images with %s; here they are resized with bicubic, and the middle is cut out", source, how)


def read(path: os.PathLike | str) -> Given | None:
    """Reads a JSON file of timm or transformers.

    Args:
      path: the file.
    Returns:
      What it says; None if it says nothing of images.
    Raises:
      UserError: the file cannot be read, is not JSON, or has wrong entries.
    """
    try:
        with buckets.local_copy(to_path(path)) as copy:
            content = json.loads(copy.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        if "pretrained_cfg" in content or ("architecture" in content and "mean" in content):
            return _timm(content, str(path))
        return _transformers(content, str(path)) if "image_mean" in content or "do_normalize" in content else None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        told = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error, 150)
        raise UserError(f"{path} says nothing usable of images ({told}); repair it, move it away, or use {FLAG} (of convert)") from error


def names_beside(file_name: str) -> tuple[str, ...]:
    """Names of the files that belong to a file of weights in the same folder: its checksum, and what tells its preprocessing."""
    return f"{file_name}.sha256", TIMM, TRANSFORMERS


def beside(path: os.PathLike | str) -> Given | None:
    """What config.json or preprocessor_config.json in the folder of a weights file says. Errors: see `read`."""
    files = [pathlib.Path(path).with_name(name) for name in (TIMM, TRANSFORMERS)]
    return next((given for file in files if file.is_file() and (given := read(file)) is not None), None)


def parsed(text: str) -> Given:
    """The meaning of the flag --preprocessing: a JSON file, see `read`, or words like "mean=0.5 std=0.5 input_size=224 crop_pct=0.9".

    Raises:
      UserError: the file cannot be read, or a word is unknown or has a wrong value.
    """
    if text.endswith(".json"):
        given = read(text)
        if given is None:
            raise UserError(f"{FLAG}={text} says nothing of images; it is neither timm's {TIMM} nor transformers' {TRANSFORMERS}")
        return given
    said: dict[str, list[float]] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        if key not in KEYS:
            raise UserError(
                f"{FLAG} has no {key!r}{nearest(key, KEYS)}; write a JSON file, or some of: {', '.join(f'{k}=...' for k in KEYS)}"
            )
        if key in said:
            raise UserError(f"{FLAG} has {key} twice; write it once")
        try:
            said[key] = [float(part) if key != "input_size" else int(part) for part in value.strip("()[]").split(",")]
        except ValueError as error:
            raise UserError(f"{FLAG}: {word!r} has no numbers joined by commas") from error
    if not said:
        raise UserError(f"{FLAG} is empty; write a JSON file, or some of: {', '.join(f'{key}=...' for key in KEYS)}")
    try:
        return Given(
            FLAG,
            _three(said["mean"], 0) if "mean" in said else None,
            _three(said["std"], FEWEST) if "std" in said else None,
            _pixels(said["input_size"]) if "input_size" in said else None,
            None,
            _share(said["crop_pct"]) if "crop_pct" in said else None,
        )
    except ValueError as error:
        raise UserError(f"{FLAG}: {error}") from error


def check(given: Given, path: os.PathLike | str, described: Mapping[str, Any]) -> None:
    """Checks that what is said is about this network.

    Args:
      given: what is said.
      path: the file of the weights, for the message.
      described: {"name", "num_classes", "arguments"} of the network in it.
    Raises:
      UserError: it is about another network, or another number of classes.
    """
    name, classes = described["name"], described["num_classes"]
    family = name in ("bnext", "convnext", "efficientnet", "resnet")  # names for any widths
    other = given.architecture
    differs = other is not None and not (str(other).startswith(name) if family else other == name)
    if differs or given.num_classes not in (None, classes):
        said = f"{one_line(other or 'a network', 60)} with {one_line(given.num_classes or classes, 20)} classes"
        raise UserError(
            f"{given.source} is about {said}, but {path} holds {name} with {classes}; move one of them, or use {FLAG} (of convert)"
        )
