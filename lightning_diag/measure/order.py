"""Which samples of its data set a loader gives in which batch, where that can be known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler

_MOST = 1 << 20
"""Our choice: of larger shuffled data sets the order is not worked out."""


class Order(NamedTuple):
    """The samples of a loader on this rank, in the order in which it gives them.

    Example:
        >>> Order(2, [0, 3, 6, 1], fresh=3).index_of(1, 0)
        6
    """

    batch_size: int
    indices: Sequence[int]
    """Index in the data set, by position."""
    fresh: int
    """Positions from here on repeat samples of other ranks, so that all ranks have as many."""

    def index_of(self, batch: int, sample: int) -> int | None:
        """Return the index of a sample by its place in a batch, None if there is none such."""
        position = batch * self.batch_size + sample
        return self.indices[position] if position < len(self.indices) else None

    def repeats(self, batch: int, samples: int) -> int:
        """Return how many of the samples of a batch other ranks have as well."""
        end = min(batch * self.batch_size + samples, len(self.indices))
        return max(0, end - max(self.fresh, batch * self.batch_size))

    def is_repeat(self, batch: int, sample: int) -> bool:
        """Whether another rank has this sample as well."""
        return self.fresh <= batch * self.batch_size + sample < len(self.indices)


def order_of(loader: Any) -> Order | None:
    """Return the order of a loader; None if it is drawn at random, or not known.

    Known are torch's sampler that goes through the data in order, and its distributed one, also
    where that shuffles: by a seed of its own, so that nothing is drawn here.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> order_of(DataLoader(range(5), batch_size=2)).index_of(2, 0)
        4
    """
    batches = _batches_of(loader)
    sampler: Any = getattr(batches, "sampler", None)
    if batches is None or type(sampler) is not DistributedSampler:
        return straight_order_of(loader)
    samples = len(sampler.dataset)  # type: ignore[arg-type]  # it has taken its length itself
    if not 0 < samples <= _MOST:
        return None
    fresh = max(0, math.ceil((samples - sampler.rank) / sampler.num_replicas))
    return Order(batches.batch_size, list(sampler), min(fresh, sampler.num_samples))


def straight_order_of(loader: Any) -> Order | None:
    """Return the order of a loader that goes through all its data in order; None of others."""
    batches = _batches_of(loader)
    if batches is None or type(batches.sampler) is not SequentialSampler:
        return None
    samples = len(batches.sampler)
    return Order(batches.batch_size, range(samples), samples)


def _batches_of(loader: Any) -> BatchSampler | None:
    batches = getattr(loader, "batch_sampler", None)
    return batches if type(batches) is BatchSampler else None
