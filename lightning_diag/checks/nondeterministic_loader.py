"""`NondeterministicLoader`: the same seed, and other batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.checks.base import Check, Level
from lightning_diag.checks.data import leaves as loaders_of
from lightning_diag.checks.generators import still
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.lr.apart import seed_all
from lightning_diag.measure.data import leaves
from lightning_diag.wording import listing

_SEED = 0


@dataclass(frozen=True)
class NondeterministicLoader(Check):
    """A training loader whose first batches differ although all generators were seeded alike.

    What it sees:
        The first `batches` training batches, taken twice from copies of the loader, each time after
        Python's, NumPy's and torch's generators were seeded alike, and those that the data set
        holds were put back. Tensors are compared bit by bit.

    Why it matters:
        Runs cannot be repeated, and two of them cannot be compared: a part of what differs is the
        data. Mostly samples are drawn from a generator that nobody seeded, from a set, whose order
        differs, or from files as the system lists them.

    What to do:
        Draw from torch's generator, and sort what is listed. Where randomness is meant, nothing.

    References:
        PyTorch documentation, Reproducibility: `DataLoader`.
    """

    code: ClassVar[str] = "nondeterministic-loader"
    level: ClassVar[Level] = "full"
    family: ClassVar[str] = "loader"
    needs: ClassVar[tuple[str, ...]] = ("batch",)

    batches: int = 2
    """Batches that are compared, at least 1. Our choice: the second shows a state that is carried
    on."""

    def __post_init__(self) -> None:
        self._require("batches", least=1)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        first, second = (self._taken(subject) for _ in range(2))
        differing = sorted({name for one, other in zip(first, second, strict=False)
                            for name in different(one, other)})  # fmt: skip
        if not differing:
            return []
        return self.found(
            "note",
            f"Of {self.batches} training batches, taken twice with the same seeds, tensor "
            f"{listing(differing)} differs.",
            "Draw from the generator that `torch.manual_seed` seeds, and sort what is listed.",
            value=len(differing),
            threshold=0,
            window=self.batches,
        )

    def _taken(self, subject: Subject) -> list[Any]:
        datasets = [getattr(each, "dataset", None) for each in loaders_of(subject.loaders)]
        with still(*datasets):
            seed_all(_SEED)
            return subject.take(subject.loaders, self.batches)


def different(one: Any, other: Any) -> list[str]:
    """Return the names of the tensors that are not the same, bit by bit.

    Example:
        >>> different([torch.ones(1), torch.zeros(1)], [torch.ones(1), torch.ones(1)])
        ['1']
    """
    ours, theirs = dict(leaves(one)), dict(leaves(other))
    if ours.keys() != theirs.keys():
        return sorted(ours.keys() ^ theirs.keys())
    return [name for name, x in ours.items() if not _is_same(x, theirs[name])]


def _is_same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or one.layout is not torch.strided:
        return one.shape == other.shape and one.dtype == other.dtype
    parts = (x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for x in (one, other))
    return torch.equal(*parts)
