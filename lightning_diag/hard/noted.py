"""What is noted of the losses of samples, and how it enters the table of a sampler."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MERGED = 256
"""Our choice: batches after which what was noted of them is put together."""


class _Batch(NamedTuple):
    indices: Tensor
    losses: Tensor
    classes: Tensor | None


class Notes:
    """The losses of batches, on their device as long as nobody asks for them.

    Example:
        >>> notes = Notes()
        >>> notes.add(torch.tensor([7]), torch.tensor([0.0]))
        >>> notes.rows()
        tensor([[ 7,  0, -1]], dtype=torch.int32)
    """

    def __init__(self) -> None:
        self._merged: list[_Batch] = []
        self._new: list[_Batch] = []

    def add(self, indices: Tensor, losses: Tensor, classes: Tensor | None = None) -> None:
        """Take note of a batch; see `OHEMSampler.note`."""
        whole = None if classes is None else classes.detach().to(torch.int32)
        self._new.append(_Batch(indices.to(torch.int32), losses.detach().float(), whole))
        if len(self._new) == _MERGED:
            self._merged.append(_merged(self._new))
            self._new = []

    def rows(self) -> Tensor:
        """Return all that was noted, on the host.

        Shape:
            ``(n, 3)`` of index, bits of the loss, and class, -1 where it is not known.
        """
        noted = [*self._merged, *self._new]
        if not noted:
            return torch.zeros(0, 3, dtype=torch.int32)
        one = _merged(noted)
        self._merged, self._new = [one], []
        classes = torch.full_like(one.indices, -1) if one.classes is None else one.classes
        bits = one.losses.cpu().view(torch.int32)
        return torch.stack([one.indices.cpu(), bits, classes.cpu()], dim=1)

    def clear(self) -> None:
        """Forget all."""
        self._merged, self._new = [], []


def _merged(parts: list[_Batch]) -> _Batch:
    known = [part.classes for part in parts if part.classes is not None]
    return _Batch(
        torch.cat([part.indices for part in parts]),
        torch.cat([part.losses for part in parts]),
        torch.cat(known) if len(known) == len(parts) else None,
    )


def updated(
    losses: Tensor,
    seen_at: Tensor,
    indices: Tensor,
    observed: Tensor,
    epoch: int,
    *,
    smoothing: float,
) -> int:
    """Enter an epoch's losses in the table, in place.

    A sample that was seen more than once enters with its mean; a first loss is taken as it is,
    others as an exponential moving average. Losses that are not finite are left out; a sample that
    has no other gets -inf: it was seen, and there is nothing to learn from it.

    Args:
        losses: ``(samples,)``, float32, NaN where never seen.
        seen_at: ``(samples,)``, int32: the epoch in which each sample was seen last.
        indices: ``(seen,)``, whole numbers.
        observed: ``(seen,)``.
        epoch: The epoch.
        smoothing: Share of the old loss that is kept, from 0 to below 1.

    Returns:
        How many losses were left out.
    """
    finite = observed.isfinite()
    dumb = indices[~finite].to(torch.int64)
    indices, observed = indices[finite].to(torch.int64), observed[finite].to(torch.float64)
    if len(indices):
        # in float64 sums of a few losses are exact, so they do not hang on the order
        totals = torch.zeros(len(losses), dtype=torch.float64).index_add_(0, indices, observed)
        counts = torch.bincount(indices, minlength=len(losses))
        is_seen = counts > 0
        new = (totals / counts).to(torch.float32)
        old = losses.where(losses.isfinite(), new)
        losses.copy_(torch.where(is_seen, old * smoothing + new * (1 - smoothing), losses))
        seen_at[is_seen] = epoch
    dumb = dumb[losses[dumb].isnan()]
    losses[dumb], seen_at[dumb] = -torch.inf, epoch
    return int(len(finite) - finite.sum())
