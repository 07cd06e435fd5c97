"""The real change of each weight in one optimizer step, against its size (W6, P37)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, Measure, Numbers, placed
from lightning_diag.measure.moments import Scalar, each_square_sum, plain
from lightning_diag.measure.shards import local_part

_HELD = 1_000_000
"""Elements of changes held at a time: 4 MB, and one tensor more."""


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
    """Return the sum of squares of each change, holding a few megabytes of changes at a time."""
    sums: list[Scalar] = []
    held: list[Tensor] = []
    elements = 0
    for new, old in zip(after, before, strict=True):
        held.append(plain(new) - old)
        elements += old.numel()
        if elements > _HELD:
            sums += each_square_sum(held)
            held, elements = [], 0
    return sums + each_square_sum(held)
