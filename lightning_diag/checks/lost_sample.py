"""`LostSample`: training samples that no batch ever holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_diag.checks.base import Check
from lightning_diag.checks.positions import batch_size, map_loader, order
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved

_KNOWN = (
    SequentialSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    DistributedSampler,
)
"""Samplers whose choice is the user's, or that come round to every sample."""
_MOST = 100_000
"""Samples of data up to which a sampler of another kind is drawn to its end (our choice)."""


@dataclass(frozen=True)
class LostSample(Check):
    """Training samples that are never drawn, or a loader without a batch.

    What it sees:
        The training loader's lengths, and the positions that copies of its sampler draw. A loader
        without a batch is `bad`: `drop_last` with fewer samples than a batch holds. `drop_last`
        without shuffling leaves out the same samples in each epoch, and a sampler of the user's own
        may draw the same part of the data in two epochs: both count from `share` of the samples on.
        Lightning's `limit_train_batches`, subsets and random draws are left alone.

    Why it matters:
        These samples were collected for nothing; of classes at the end of sorted data none may be
        left. Without a batch, training ends at once, mostly without an error.

    What to do:
        Shuffle, or keep the last batch; make batches smaller than the data.

    References:
        PyTorch documentation of `torch.utils.data.DataLoader`: `drop_last`.
    """

    code: ClassVar[str] = "lost-sample"
    family: ClassVar[str] = "loader"

    share: float = 0.1
    """Share of the samples from which on it counts, above 0 to 1. Our choice: what an incomplete
    batch loses of tens of batches is less."""

    def __post_init__(self) -> None:
        self._require("share", least=1e-9, most=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        loader = map_loader(subject, "train")
        samples = len(loader.dataset)
        if samples and _length(loader.batch_sampler) == 0:
            return self._empty(samples, loader)
        if type(loader.batch_sampler) is BatchSampler and type(loader.sampler) in _KNOWN:
            return self._dropped(loader)
        if samples > _MOST:
            return self.not_observed(f"the data hold more than {_MOST:,} samples")
        first, second = set(order(loader, _MOST)), set(order(loader, _MOST))
        lost = samples - len(first | second)
        if first != second or lost < self.share * samples:
            return []
        return self._say(lost, samples, "two epochs of the sampler draw the same part of the data")

    def _dropped(self, loader: Any) -> list[Finding]:
        drawn = len(loader.sampler)
        lost = drawn % batch_size(loader) if loader.batch_sampler.drop_last else 0
        if lost < self.share * drawn or not lost:
            return []
        positions = order(loader, _MOST)
        if any(one > other for one, other in pairwise(positions)):
            return []  # others in each epoch
        return self._say(lost, drawn, "`drop_last` leaves the same ones out, without shuffling")

    def _say(self, lost: int, samples: int, why: str) -> list[Finding]:
        return self.found(
            "suspect",
            f"{lost:,} of {samples:,} training samples are in no epoch ({lost / samples:.0%}): "
            f"{why}.",
            "Take `torch.utils.data.DataLoader(shuffle=True)`, or keep the last batch; let a "
            "sampler come round to every sample.",
            value=lost,
            threshold=self.share * samples,
            window=samples,
        )

    def _empty(self, samples: int, loader: Any) -> list[Finding]:
        size = batch_size(loader)
        of = f"batches of {size:,} and `drop_last`" if size else "its batch sampler"
        return self.found(
            "bad",
            f"The training loader has no batch: {samples:,} samples, with {of}.",
            "Make batches smaller, or take `torch.utils.data.DataLoader(drop_last=False)`.",
            value=0,
            threshold=1,
            window=samples,
        )


def _length(sampler: Any) -> int | None:
    """Return how many batches a sampler has, None where it does not say."""
    try:
        return len(sampler)
    except (TypeError, NotImplementedError):
        return None
