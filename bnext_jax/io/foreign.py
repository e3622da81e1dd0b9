"""Files of other programs that hold a network's weights: chooses the reader by a file's suffix and content.

PyTorch files are read and written (io.torch.torch_files). Keras' HDF5 files and Flax's trees are only read.
"""

import os
import pathlib

from bnext_jax.errors import UserError
from bnext_jax.io import flax_files, hdf5
from bnext_jax.io.names.pokebnn import without_statistics
from bnext_jax.io.reading import FLAX, HDF5, SAFE, content_kind
from bnext_jax.io.torch import torch_files
from bnext_jax.io.torch.torch_files import TorchFile

ONLY_READ = {".h5": HDF5, ".hdf5": HDF5, ".msgpack": FLAX}
ARCHIVE = ".keras"  # neither read nor written
READERS = {HDF5: hdf5.read, FLAX: flax_files.read}


def _only_read(path):
    """HDF5 or FLAX by the file's suffix; None for any other suffix."""
    return next((kind for suffix, kind in ONLY_READ.items() if pathlib.Path(path).name.endswith(suffix)), None)


def read(path: os.PathLike | str, weights: str | None = None) -> TorchFile:
    """Reads the weights in a file of PyTorch, Keras or Flax.

    Args:
      path: a file with one of torch_files.SUFFIXES or of ONLY_READ. Its content must be of the kind that the suffix says.
      weights: of a PyTorch file, see torch_files.read; None for any other.
    Returns:
      The file's content, with the names and layouts of the program that wrote it.
    Raises:
      UserError: see torch_files.read, hdf5.read and flax_files.read; or --weights is given for a file that is not PyTorch's.
    """
    kind = _only_read(path)
    if torch_files.kind(path):
        return torch_files.read(path, weights)
    if pathlib.Path(path).name.endswith(ARCHIVE):
        raise UserError(f"{path} is an archive of Keras 3, which numbers the weights in place of naming them; {hdf5.AS_H5}")
    if kind is None:
        known = ", ".join([*torch_files.SUFFIXES, *ONLY_READ])
        raise UserError(f"{path} is not named like a file with weights; its suffix must be one of {known}")
    if weights is not None:
        raise UserError(f"{path} is a {kind} file, which holds one network only; leave --weights out")
    found = content_kind(path)
    if found not in (kind, None) and (kind, found) != (FLAX, SAFE):  # a tree of Flax may look like safetensors: it has no mark of its own
        raise UserError(f"{path} is a {found} file, but its suffix says otherwise; rename it")
    if kind == HDF5 and found is None:
        raise UserError(f"{path} is no HDF5 file; it is damaged or something else")
    return TorchFile(without_statistics(READERS[kind](path), path))


def check_output(path: os.PathLike | str) -> None:
    """Raises UserError if a network cannot be written to a path with this suffix: files of Keras and Flax are only read."""
    if _only_read(path) or pathlib.Path(path).name.endswith(ARCHIVE):
        raise UserError(
            f"{path} has the suffix of a Keras or Flax file, which is only read, not written;"
            f" use a suffix of PyTorch ({', '.join(torch_files.SUFFIXES)}), or none for a work directory"
        )
