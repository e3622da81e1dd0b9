"""Images that cannot be decoded: named, counted, and a run ended where there are too many."""

import logging

from bnext_jax.errors import UserError

log = logging.getLogger(__name__)
NAMED = 5  # in one message


def named(source, indices):
    """Text: the images' names and why they cannot be decoded, the first few of them."""
    told = ", ".join(source.describe(index) for index in sorted(indices)[:NAMED])
    return told + (f" and {len(indices) - NAMED} more" if len(indices) > NAMED else "")


class Faults:
    """Names the images of training batches that others took the place of, and ends a run that has too many.

    Args:
      source: data.splits.Source. allowed: share of an epoch's images that may be replaced. images: of an epoch, in all processes.
    """

    def __init__(self, source, allowed, images):
        self._source, self._allowed, self._images = source, allowed, images
        self._told = set()

    def look(self, undecodable):
        """Takes the indices of one of this process's batches, -1 where all is well; warns of each image once."""
        for index in {int(index) for index in undecodable if index >= 0} - self._told:
            self._told.add(index)
            log.warning("%s cannot be decoded; another image takes its place", self._source.describe(index))

    def check(self, count):
        """Raises UserError where `count` replaced images in an epoch, of all processes, are more than allowed."""
        if count > self._allowed * self._images:
            told = named(self._source, self._told) if self._told else "other processes name them"
            raise UserError(
                f"{count} of the {self._images} images of an epoch cannot be decoded ({told}), more than config.data.undecodable_share"
                f" {self._allowed} allows; prepare the dataset again, or allow more"
            )
