"""`DuplicateFeature`: columns of a table that say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.checks.base import Check, Level
from lightning_diag.checks.items import training_batches
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.measure.data import leaves
from lightning_diag.wording import listing

_COLUMNS = 1024
"""Columns that are compared with each other at most (our choice)."""
_SAMPLES = 64
"""Samples that are looked at (our choice)."""
_EQUAL = 1e-6
"""How far the correlation of copies may be from 1 (our choice): float32's rounding."""


@dataclass(frozen=True)
class DuplicateFeature(Check):
    """Columns of a table that are copies of each other, in the same or another unit.

    What it sees:
        64 samples from all over the training data. Columns of a table (one row of numbers a sample)
        whose correlation is 1 or -1, among those with at least `values` different values each.

    Why it matters:
        A column that is there twice has twice the learning rate and half the weight decay of the
        others, and what it seems to contribute is divided between two weights. Mostly a join of
        tables, or a unit that was converted, left both.

    What to do:
        Leave one of them out.

    References:
        Breck et al., Data Validation for Machine Learning, MLSys 2019 (C7).
    """

    code: ClassVar[str] = "duplicate-feature"
    level: ClassVar[Level] = "full"
    family: ClassVar[str] = "inputs"
    needs: ClassVar[tuple[str, ...]] = ("batch",)

    values: int = 8
    """Different values that a column must have, at least 2. Our choice: columns of few values are
    alike by chance, and yes against no is a usual way to write one answer."""
    samples: int = 32
    """Samples that a verdict needs, at least 3. Our choice: of so few, no two columns agree to six
    digits by chance."""

    def __post_init__(self) -> None:
        self._require("values", least=2)
        self._require("samples", least=3, unit="samples")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        batches, _ = training_batches(subject, _SAMPLES)
        tables: dict[str, list[Tensor]] = {}
        for batch in batches:
            for name, x in leaves(batch):
                if x.dim() == 2 and x.is_floating_point() and x.shape[1] > 1:
                    tables.setdefault(name, []).append(x)
        known = {name: _joined(parts) for name, parts in tables.items()}
        if all(len(x) < self.samples for x in known.values()):
            return self.not_observed(f"no table of at least {self.samples} samples was seen")
        for name, x in known.items():
            pairs = duplicates(x, self.values) if len(x) >= self.samples else []
            if pairs:
                shown = [f"{one} and {other}" for one, other in pairs]
                return self.found(
                    "note",
                    f"In tensor {name!r} of the batch {len(pairs):,} pairs of columns say the same "
                    f"in all of {len(x):,} samples: {listing(shown)}.",
                    "Leave one of each out; `torch.corrcoef` shows all pairs.",
                    value=len(pairs),
                    threshold=0,
                    window=len(x),
                )
        return []


def duplicates(x: Tensor, values: int) -> list[tuple[int, int]]:
    """Return the pairs of columns with a correlation of 1 or -1.

    Args:
        x: ``(samples, columns)``.
        values: Different values that a column must have.

    Example:
        >>> duplicates(torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 5.0], [3.0, 6.0, 1.0]]), 3)
        [(0, 1)]
    """
    x = x[:, :_COLUMNS].double()
    ordered = x.sort(0).values
    different = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    chosen = ((different >= values) & torch.isfinite(x).all(0)).nonzero()[:, 0]
    columns = x[:, chosen] - x[:, chosen].mean(0)
    columns = columns / torch.linalg.vector_norm(columns, dim=0)
    alike = (columns.T @ columns).abs() > 1 - _EQUAL
    return [(int(chosen[i]), int(chosen[j])) for i, j in alike.triu(1).nonzero().tolist()]


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part for part in parts if part.shape[1] == parts[0].shape[1]])
