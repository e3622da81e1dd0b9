"""Images that cannot be decoded: names them in warnings, counts them, and ends a run that has too many."""

import logging
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from bnext_jax.errors import UserError

if TYPE_CHECKING:
    from bnext_jax.data.splits import Source

log = logging.getLogger(__name__)
NAMED = 5  # images named in one message


def named(source: "Source", indices: Collection[int]) -> str:
    """Returns text: the names of the first few images, and why they cannot be decoded."""
    told = ", ".join(source.describe(index) for index in sorted(indices)[:NAMED])
    return told + (f" and {len(indices) - NAMED} more" if len(indices) > NAMED else "")


class Faults:
    """Warns of the images of training batches that were replaced by other images, and ends a run that has too many.

    Args:
      source: the split that the images come from.
      allowed: largest share of an epoch's images that may be replaced, in [0, 1).
      images: number of images in an epoch, in all processes.
    """

    def __init__(self, source: "Source", allowed: float, images: int) -> None:
        self._source, self._allowed, self._images = source, allowed, images
        self._told: set[int] = set()

    def look(self, undecodable: Iterable[int]) -> None:
        """Warns once of each replaced image. undecodable: a batch's "undecodable" of this process; -1 = the image was decoded."""
        for index in {int(index) for index in undecodable if index >= 0} - self._told:
            self._told.add(index)
            log.warning("%s cannot be decoded; another image takes its place", self._source.describe(index))

    def check(self, count: int) -> None:
        """Raises UserError if `count` replaced images in an epoch (of all processes) are more than allowed."""
        if count > self._allowed * self._images:
            told = named(self._source, self._told) if self._told else "other processes name them"
            raise UserError(
                f"{count} of the {self._images} images of an epoch cannot be decoded ({told}), more than config.data.undecodable_share"
                f" {self._allowed} allows; prepare the dataset again, or allow more"
            )
