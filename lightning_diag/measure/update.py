"""The real change of each weight in one optimizer step, against its size (W6, P37)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers, placed
from lightning_diag.measure.moments import Scalar, each_square_sum, plain, square_sum
from lightning_diag.measure.shards import local_part

_LARGE = 4096
"""Elements from which on a change is summed by itself (our choice): then the call costs less."""
_FEW = 256
"""Small changes held at a time (our choice): 4 MB at most."""


class UpdateMeasure(Measure):
    """Norm of the change of each parameter over the norm it had before.

    The change is measured on the weights themselves, so it holds for any optimizer, weight decay
    and clipping. Weights that were all zero have no ratio: their `norm` is given alone.

    Example:
        >>> measure = UpdateMeasure()
        >>> columns = measure.observe([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 4.5])])
        >>> measure.summarise(["w"], columns.sums, columns.maxima)["ratio"]
        {'w': 0.1}
    """

    name: ClassVar[str] = "update"
    outputs: ClassVar[dict[str, str]] = {
        "ratio": "norm of the change over the norm of the weights before; about 1e-3 is usual",
        "norm": "L2 norm of the change; 0 or more",
        "weight_norm": "L2 norm of the weights before the step; 0 or more",
    }

    def observe(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> Columns:
        """Compare copies taken before the step with the weights after it, one row each.

        Shape:
            n pairs of tensors of any shape -> sums ``(n, 3)``, maxima ``(n, 0)``.
        """
        device = before[0].device
        parts = [local_part(new.detach()) for new in after]
        old = [plain(weight) for weight in before]
        changes = _change_sums([new for new, _ in parts], old)
        shares = [share for _, share in parts]
        rows = zip(changes, each_square_sum(old), shares, strict=True)
        return Columns.of(device, list(rows))

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        change, weights, seen = sums.unbind(1)
        observed = seen > 0
        copies = seen.clamp(min=1e-9)
        has_size = observed & (weights != 0)
        ratio = (change / weights.where(has_size, torch.ones_like(weights))).sqrt()
        return {
            "ratio": placed(places, ratio, has_size),
            "norm": placed(places, (change / copies).sqrt(), observed),
            "weight_norm": placed(places, (weights / copies).sqrt(), observed),
        }


def _change_sums(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Scalar]:
    """Return the sum of squares of each change.

    Changes of large weights are summed as soon as they are made, while they are in the cache; those
    of small ones wait for each other, up to a few megabytes, since each call costs.
    """
    sums: list[Scalar] = [0.0] * len(before)
    small: dict[int, Tensor] = {}
    for i, (new, old) in enumerate(zip(after, before, strict=True)):
        change = plain(new) - old
        if change.numel() > _LARGE:
            sums[i] = square_sum(change)
        else:
            small[i] = change
        if len(small) == _FEW or i == len(before) - 1:
            for index, value in zip(small, each_square_sum(list(small.values())), strict=True):
                sums[index] = value
            small.clear()
    return sums
