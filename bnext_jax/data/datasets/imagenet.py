"""ImageNet's 1,000 classes: WordNet's synsets in the usual order (index 0 is n01440764), each with a short name."""

import functools
import pathlib
from collections.abc import Sequence

FILE = pathlib.Path(__file__).with_name("imagenet_classes.txt")  # one line per class: "SYNSET NAME"
CLASSES = 1000


@functools.cache
def names() -> dict[str, str]:
    """Returns {synset: name} in class order, e.g. {"n01440764": "tench", ...}. A name is WordNet's first name, made unique."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def readable(class_names: Sequence[str], count: int) -> list[str]:
    """Returns a readable name for each class.

    Args:
      class_names: a dataset's class names; synsets are translated. (): unknown; then 1,000 classes are taken as ImageNet's.
      count: number of classes.
    Returns:
      a list of `count` strings.
    """
    table = names()
    if not class_names:
        return list(table.values()) if count == CLASSES else [f"class {i}" for i in range(count)]
    return [table.get(name, name) for name in class_names]
