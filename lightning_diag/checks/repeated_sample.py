"""`RepeatedSample`: samples that come several times in an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import copies
from lightning_diag.checks.fingerprints import fingerprint
from lightning_diag.checks.lost_sample import _KNOWN
from lightning_diag.checks.positions import map_loader, order, the_loader
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.workers import batches_by_workers
from lightning_diag.finding import Finding, NotObserved

_WORKERS = 2
_DRAWN = 10_000
"""Positions that are drawn from a sampler at most (our choice)."""


@dataclass(frozen=True)
class RepeatedSample(Check):
    """Training samples that each worker process gives again, or that a sampler draws all the time.

    What it sees:
        Of data that can only be iterated, with several workers: the first batches of two real
        worker processes of a copy, which must not be equal, unless one process gives the same batch
        again and again as well. Of a sampler of the user's own: of at least `draws` positions the
        share of different ones, which must be more than `share`.

    Why it matters:
        torch gives each worker process a copy of a data set that is iterated, and each goes through
        all of it: with 8 workers an epoch is 8 epochs, batches of the same samples follow each
        other, and validation counts everything 8 times.

    What to do:
        Let each worker take its part: `torch.utils.data.get_worker_info()` has `id` and
        `num_workers`.

    References:
        PyTorch documentation of `IterableDataset`: multi-process loading.
    """

    code: ClassVar[str] = "repeated-sample"
    family: ClassVar[str] = "loader"

    share: float = 0.1
    """Share of different positions up to which a sampler repeats itself, 0 to 1. Our choice: where
    rare classes are drawn more often, half of all positions or more still come."""
    draws: int = 50
    """Positions that a verdict on a sampler needs, at least 2 (our choice)."""

    def __post_init__(self) -> None:
        self._require("share", least=0.0, most=1.0)
        self._require("draws", least=2)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        loader = the_loader(subject, "train")
        if isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
            return self._iterated(loader)
        own = map_loader(subject, "train")
        if type(own.batch_sampler) is BatchSampler and type(own.sampler) in _KNOWN:
            return []
        drawn = order(own, _DRAWN)
        different = len(set(drawn))
        if len(drawn) < self.draws or different > self.share * len(drawn):
            return []
        return self.found(
            "suspect",
            f"The training sampler draws {different:,} different samples in {len(drawn):,} draws, "
            f"of {len(own.dataset):,} samples.",
            "Let the sampler come round to every sample, as `torch.utils.data.RandomSampler` does.",
            value=different,
            threshold=self.share * len(drawn),
            window=len(drawn),
        )

    def _iterated(self, loader: Any) -> list[Finding] | NotObserved:
        if loader.num_workers < _WORKERS:
            return []
        own = copies(loader)
        if own is loader:
            return self.not_observed("the training loader cannot be copied")
        batches = [fingerprint(batch) for batch in batches_by_workers(own, 2 * _WORKERS, _WORKERS)]
        if len(batches) < _WORKERS + 1 or batches[0] != batches[1] or batches[0] == batches[2]:
            return []
        workers = loader.num_workers
        return self.found(
            "bad",
            f"Each of {workers} worker processes iterates all of the training data "
            f"({type(loader.dataset).__name__}): the first batches of {_WORKERS} are equal, and an "
            f"epoch holds each sample {workers} times.",
            "Let each take its part, by `torch.utils.data.get_worker_info`, or load with one.",
            value=workers,
            threshold=1,
            window=len(batches),
        )
