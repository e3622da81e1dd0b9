"""Images that cannot be decoded: named, counted, and a run ended where there are too many."""

import collections
import logging

from bnext_jax.errors import UserError

log = logging.getLogger(__name__)
NAMED = 5  # in one message


def named(source, indices):
    """Text: the images' names and why they cannot be decoded, the first few of them."""
    told = ", ".join(source.describe(index) for index in sorted(indices)[:NAMED])
    return told + (f" and {len(indices) - NAMED} more" if len(indices) > NAMED else "")


class Faults:
    """Watches the "undecodable" of training batches.

    Attributes:
      counts: {epoch: images replaced in it}. Batches are read ahead, so the next epoch's may come before this one has ended.
    Args:
      source: data.sources.Source. allowed: share of an epoch's images that may be replaced. images: of an epoch, in this process.
    """

    def __init__(self, source, allowed, images):
        self._source, self._allowed, self._images = source, allowed, images
        self._told = set()
        self.counts = collections.Counter()

    def look(self, undecodable, epoch):
        """Takes the indices of one batch of an epoch, -1 where all is well; warns of each image once.

        Raises UserError where an epoch's share of replaced images passes the allowed one.
        """
        found = [int(index) for index in undecodable if index >= 0]
        self.counts[epoch] += len(found)
        for index in set(found) - self._told:
            self._told.add(index)
            log.warning("%s cannot be decoded; another image takes its place", self._source.describe(index))
        if found and self.counts[epoch] > self._allowed * self._images:
            raise UserError(
                f"{self.counts[epoch]} of the {self._images} images of an epoch cannot be decoded ({named(self._source, self._told)}),"
                f" more than config.data.undecodable_share {self._allowed} allows; prepare the dataset again, or allow more"
            )
