"""`LastBatchOfOne`: an epoch whose last batch is one sample, which a batch norm cannot take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import leaves
from lightning_diag.checks.norms import batch_norms, norm_calls, takes_statistics
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.wording import listing


@dataclass(frozen=True)
class LastBatchOfOne(Check):
    """An epoch that ends with a batch of one sample, and a batch norm that has no use for it.

    What it sees:
        The length of training's data and the batch size: what is left for the last batch, unless
        `drop_last` leaves it out. And a step of a copy: batch norms in training mode that get
        `values` numbers of a sample in each channel, as behind a linear layer.

    Why it matters:
        The variance of one number is 0: PyTorch ends the training with an error ("Expected more
        than 1 value per channel when training"), at the end of the first epoch.

    What to do:
        `drop_last=True`, or another batch size.

    References:
        PyTorch documentation of `DataLoader` and `BatchNorm1d`.
    """

    code: ClassVar[str] = "last-batch-of-one"
    family: ClassVar[str] = "batch"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    values: int = 1
    """Numbers of a sample in a channel that are too few, at least 1: PyTorch's own limit."""

    def __post_init__(self) -> None:
        self._require("values", least=1, unit="number")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        norms = batch_norms(subject.module)
        if not any(takes_statistics(norm) for norm in norms.values()):
            return []
        sizes = [known for each in leaves(subject.loaders) if (known := _left(each)) is not None]
        if not sizes:
            return self.not_observed("the number of samples or the batch size is not known")
        ends = [(number, size) for number, size in sizes if number % size == 1]
        if not ends or _is_cut_short(subject):
            return []
        single = list(
            dict.fromkeys(
                call.path
                for call in norm_calls(subject.copy(), subject)
                if takes_statistics(call.norm) and call.values <= self.values
                and not _is_joined(call.norm, subject)
            )
        )  # fmt: skip
        if not single:
            return []
        number, size = ends[0]
        return self.found(
            "bad",
            f"The last batch of an epoch has 1 sample ({number:,} in batches of {size}): "
            f"{listing(single)} cannot take the variance of 1 value, and training ends with an "
            "error.",
            "Leave it out by `torch.utils.data.DataLoader(drop_last=True)`, or choose another "
            "batch size.",
            value=1,
            threshold=self.values,
            places=single,
        )


def _left(loader: Any) -> tuple[int, int] | None:
    """Return how many samples a loader gives in batches of how many; None if it is not known.

    Example:
        >>> _left(DataLoader([1, 2, 3], batch_size=2)), _left(DataLoader([1], batch_size=None))
        ((3, 2), None)
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler: Any = loader.sampler
    if loader.batch_size is None:
        sampler = loader.batch_sampler
        if type(sampler).__name__ != "BatchSampler":
            return None
    size = loader.batch_size or getattr(sampler, "batch_size", None)
    if not isinstance(size, int) or size < 2:
        return None
    inner = getattr(sampler, "sampler", sampler)
    is_cut = bool(loader.drop_last or getattr(sampler, "drop_last", False))
    try:
        number = len(inner)
    except (TypeError, NotImplementedError):
        return None
    return (number - number % size, size) if is_cut else (number, size)


def _is_cut_short(subject: Subject) -> bool:
    """Return whether the trainer's limits leave the last batch out."""
    trainer = subject.trainer
    if trainer is None:
        return False
    loaders = [loader for loader in leaves(subject.loaders) if isinstance(loader, DataLoader)]
    batches = max((len(loader) for loader in loaders), default=0)
    return bool(getattr(trainer, "num_training_batches", batches) < batches)


def _is_joined(norm: nn.Module, subject: Subject) -> bool:
    ranks = int(getattr(subject.trainer, "world_size", 1))
    return ranks > 1 and isinstance(norm, nn.SyncBatchNorm)
