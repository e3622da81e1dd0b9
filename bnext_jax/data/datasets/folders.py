"""Makes a TFDS dataset from a folder of class folders, the layout of PyTorch's ImageFolder.

The layout is DIR/train/CLASS/IMAGE, and DIR/val or DIR/test likewise. The dataset contains the unchanged bytes of the files.
The labels are the positions of train's class folders in sorted order, so ImageNet's synsets get their usual numbers.

Classes, images and labels are those of torchvision's ImageFolder, with these differences: GIF and PBM files count as images; hidden files
and folders do not count; links that would lead in a circle are not followed; an image outside the class folders is an error. A warning
names everything that is left out.
"""

import logging
import os
import pathlib
import re
from collections.abc import Collection, Mapping

import tensorflow_datasets as tfds

from bnext_jax.data.decode.photo import Photo, Undecodable
from bnext_jax.data.decode.reading import UPRIGHT
from bnext_jax.data.store import TURNED
from bnext_jax.errors import UserError
from bnext_jax.host.progress import Progress

log = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}  # folder -> split
NAMED = 5  # names listed in one message
# why something is left out
HIDDEN = "hidden"
OTHER = "without an image's suffix"
NOWHERE = "links that lead nowhere"
CIRCLE = "links to a folder that they lie in"
SPECIAL = "neither a file nor a folder"
STRANGE = "in no folder of a split"


def scan(source: os.PathLike | str) -> tuple[list[str], dict[str, list[tuple[pathlib.Path, str]]]]:
    """Lists the classes and the images in a folder of class folders. Warns of everything that is left out.

    Args:
      source: the folder that has train, and val or test.
    Returns:
      (class names, {split: [(path relative to `source`, class name), ...]}), both sorted.
    Raises:
      UserError: `source` is no folder, has no train folder or no evaluation folder, or has both val and validation; an image lies
        outside a class folder; a class folder has no images; a split has a class that train does not have; a class's name cannot be
        kept; or a folder cannot be read.
    """
    root = pathlib.Path(source)
    try:
        if not root.is_dir():
            raise UserError(f"--source {_text(source)} is no folder")
        return _Scan(root).result()
    except OSError as error:
        raise UserError(f"{_text(error.filename or root)} cannot be read: {error.strerror or error}; give yourself access to it") from error


def _text(path: os.PathLike | str) -> str:
    """A path as text that can be printed. Bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _list(names: Collection[os.PathLike | str]) -> str:
    return ", ".join(_text(name) for name in list(names)[:NAMED]) + (" ..." if len(names) > NAMED else "")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # ._photo.jpg, .DS_Store, .ipynb_checkpoints; what an archive of a Mac adds


class _Scan:
    """Lists the images below one source folder, and notes what is left out."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.left: dict[str, list[pathlib.Path]] = {}  # {why: what is left out}

    def leave(self, why: str, path: str) -> None:
        self.left.setdefault(why, []).append(pathlib.Path(path).relative_to(self.root))

    def result(self) -> tuple[list[str], dict[str, list[tuple[pathlib.Path, str]]]]:
        """Does the work of scan."""
        root = self.root
        found: dict[str, list[tuple[pathlib.Path, str]]] = {}
        for name, split in SPLITS.items():
            if (root / name).is_dir():
                if split in found:
                    raise UserError(f"{root} has both val and validation; keep one of them")
                files = self.split(root / name, optional=split == "test" and len(found) == 2)
                found |= {split: files} if files else {}
        if "train" not in found or len(found) < 2:
            listed = ", ".join(sorted(_text(entry.name) for entry in os.scandir(root))[:NAMED]) or "nothing"
            raise UserError(f"{_text(root)} needs the folders train, and val or test, each with one folder a class; it has {listed}")
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
            if entry.name not in SPLITS:
                self.leave(STRANGE, entry.path)
        classes = sorted({label for _, label in found["train"]})
        for split, files in found.items():
            strange = sorted({label for _, label in files} - set(classes))
            if strange:
                raise UserError(f"{split} in {_text(root)} has classes that train does not have: {_list(strange)}")
        _check_names(root, classes)
        for why, paths in self.left.items():
            log.warning("left out of %s, because they are %s: %d (%s)", _text(root), why, len(paths), _list(paths))
        return classes, found

    def split(self, folder: pathlib.Path, optional: bool) -> list[tuple[pathlib.Path, str]]:
        """Lists the images of one split: [(path relative to the root, class name), ...].

        If the split is optional, images without class folders are left out with a warning, and the result is [].
        """
        classes, loose = self.entries(os.fspath(folder))
        if loose and not classes and optional:
            log.warning("%s has %d images without class folders, so without labels; it is left out", _text(folder), len(loose))
            return []
        if loose:
            raise UserError(f"{_text(loose[0])} lies outside a class folder; sort the images of {folder.name} into one folder a class")
        files: list[tuple[pathlib.Path, str]] = []
        for path in classes:
            images = self.images(path, (os.path.realpath(folder),))
            if not images:  # without the class, the labels of all classes behind it would be others
                raise UserError(f"{_text(path)} holds no images ({', '.join(SUFFIXES)}); add some, or remove the folder")
            files += [(pathlib.Path(image).relative_to(self.root), os.path.basename(path)) for image in images]
        if not files:
            raise UserError(f"{_text(folder)} holds no images ({', '.join(SUFFIXES)}) in class folders")
        return sorted(files)

    def images(self, folder: str, above: tuple[str, ...]) -> list[str]:
        """Lists the images in a folder and the folders in it. above: the real paths of the folders that it was reached through."""
        real = os.path.realpath(folder)
        if real in above:
            self.leave(CIRCLE, folder)
            return []
        folders, images = self.entries(folder)
        for inner in folders:
            images += self.images(inner, (*above, real))
        return images

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Lists a folder: (paths of the folders in it, paths of the images in it), both sorted. Follows links."""
        folders, images = [], []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            link = entry.is_symlink()
            if _is_hidden(entry.name):
                self.leave(HIDDEN, entry.path)
            elif os.path.isdir(entry.path) if link else entry.is_dir():
                folders.append(entry.path)
            elif not (os.path.isfile(entry.path) if link else entry.is_file()):
                self.leave(NOWHERE if link and not os.path.exists(entry.path) else SPECIAL, entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                images.append(entry.path)
            else:
                self.leave(OTHER, entry.path)
        return folders, images


def _check_names(root: pathlib.Path, classes: Collection[str]) -> None:
    """Raises UserError for a class name that the dataset cannot keep: TFDS writes one name a line, as UTF-8, and strips it."""
    for name in classes:
        if _text(name) != name:
            raise UserError(f"the class folder {_text(name)} in {_text(root)} has a name that is not UTF-8; rename it")
        if name != name.strip() or len(name.splitlines()) > 1:
            raise UserError(f"the class folder {name!r} in {_text(root)} has a space at an end of its name, or a line break; rename it")


def check_name(name: str) -> None:
    """Raises UserError unless `name` can name a dataset: lower-case letters, digits and "_", starting with a letter."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"config.data.name {name!r} cannot name a dataset; use lower-case letters, digits and _")


def make_builder(name: str, directory: str, source: os.PathLike | str, file_format: str) -> tfds.core.GeneratorBasedBuilder:
    """Makes the TFDS builder that writes a folder of class folders as a dataset.

    Args:
      name: name of the dataset: lower-case letters, digits and "_", starting with a letter.
      directory: folder of all datasets.
      source: the folder of class folders, see scan.
      file_format: TFDS's name of the format, e.g. "array_record".
    Returns:
      the builder. Its metadata, which the dataset keeps, count the images with a turn in their EXIF data: {TURNED: {split: number}}.
    Raises:
      UserError: the name has another form, or `source` has another layout (see scan).
    """
    check_name(name)
    classes, splits = scan(source)
    turned = dict.fromkeys(splits, 0)

    class Folders(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Images from class folders."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=classes),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                metadata=tfds.core.MetadataDict({TURNED: turned}),
            )

        def _split_generators(self, dl_manager):
            del dl_manager  # nothing is downloaded
            return {split: self._generate_examples(split, files) for split, files in splits.items()}

        def _generate_examples(self, split, files):
            broken: dict[str, str] = {}
            with Progress(f"reading {split}", len(files), unit="image") as progress:
                for path, label in files:
                    full = pathlib.Path(source) / path
                    try:
                        encoded = full.read_bytes()
                    except OSError as error:
                        raise UserError(f"{_text(full)} cannot be read: {error.strerror or error}; give yourself access to it") from error
                    try:
                        turned[split] += Photo(encoded).orientation != UPRIGHT
                    except Undecodable as error:
                        broken[path.name] = str(error)
                    name = os.fsencode(path)  # a name need not be UTF-8
                    yield name, {"image": encoded, "label": label, "file_name": name}
                    progress.step()
            _warn_broken(split, broken)

    Folders.name = name
    return Folders(data_dir=directory, file_format=file_format)


def _warn_broken(split: str, broken: Mapping[str, str]) -> None:
    """Names the images of a split that cannot be decoded. broken: {file name: why}."""
    if broken:
        told = ", ".join(f"{_text(name)} ({why})" for name, why in list(broken.items())[:NAMED])
        log.warning(
            "%d files of %s cannot be read as images: %s%s; training will replace them, evaluation will refuse the split",
            len(broken), split, told, " ..." if len(broken) > NAMED else "",
        )  # fmt: skip
