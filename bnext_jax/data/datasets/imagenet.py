"""ImageNet's 1,000 classes: WordNet's synsets in the usual order (index 0 is n01440764), each with a short name."""

import functools
import pathlib

FILE = pathlib.Path(__file__).with_name("imagenet_classes.txt")  # "SYNSET NAME" a line
CLASSES = 1000


@functools.cache
def names():
    """{synset: name} in class order, e.g. {"n01440764": "tench", ...}; the names are WordNet's first, made unique."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def readable(class_names, count):
    """One name a class for people to read.

    Args:
      class_names: a dataset's names; synsets are translated. () = unknown: taken as ImageNet's where count is 1,000.
      count: number of classes.
    Returns:
      A list of `count` strings.
    """
    table = names()
    if not class_names:
        return list(table.values()) if count == CLASSES else [f"class {i}" for i in range(count)]
    return [table.get(name, name) for name in class_names]
