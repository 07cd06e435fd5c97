"""How far the copies of a parameter on several ranks are apart (P1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers, placed
from lightning_diag.measure.moments import Scalar, moments, plain


class ReplicaMeasure(Measure):
    """Largest difference of a parameter's sum over ranks, against its norm.

    The sum is the projection on a fixed direction: copies that have drifted apart by a part p of
    their size differ in it by about p times their norm, equal ones not at all.

    Example:
        >>> measure = ReplicaMeasure()
        >>> ranks = [measure.observe([torch.tensor([3.0, 4.0 + rank])]) for rank in range(2)]
        >>> maxima = torch.maximum(ranks[0].maxima, ranks[1].maxima)
        >>> measure.summarise(["w"], ranks[0].sums, maxima)["rank_difference"]["w"] > 0.1
        True
    """

    name: ClassVar[str] = "setup"
    outputs: ClassVar[dict[str, str]] = {
        "rank_difference": "largest difference between ranks of the parameter's sum, over its "
        "norm; 0 where all ranks hold the same"
    }

    def observe(self, parameters: Sequence[Tensor]) -> Columns:
        """Take the sum of each parameter with either sign, and its squares.

        Shape:
            n tensors of any shape -> sums ``(n, 0)``, maxima ``(n, 3)``.
        """
        rows: list[tuple[Scalar, ...]] = []
        for parameter in parameters:
            found = moments(plain(parameter))
            rows.append((found.total, -found.total, found.squares))
        return Columns.of(parameters[0].device, [()] * len(rows), rows)

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        high, low, squares = maxima.unbind(1)
        known = torch.isfinite(maxima).all(dim=1)
        gap = (high + low).clamp(min=0)
        size = squares.clamp(min=0).sqrt()
        share = gap / size.where(size > 0, torch.ones_like(size))
        return {"rank_difference": placed(places, share, known)}
