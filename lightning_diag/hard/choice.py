"""What is chosen of the losses of a batch, over ranks and micro-batches, and what comes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_diag.hard.element_losses import Elements
from lightning_diag.hard.mining import Candidates, Mining, Stage, on_host, select
from lightning_diag.hard.pooled import Pool
from lightning_diag.hard.reduction import Reduction

BINS = 256
"""Classes that are told apart in what was kept."""


class Mined(NamedTuple):
    """What was kept of a batch, on its device."""

    kept: Tensor
    """``()``: elements that were kept."""
    valid: Tensor
    """``()``: elements that counted."""
    threshold: Tensor
    """``()``: the lowest loss that was kept; inf if none was."""
    kept_of_class: Tensor | None
    """``(256,)``: elements kept, by class; those of higher classes are left out."""
    valid_of_class: Tensor | None
    """``(256,)``: elements that counted, by class."""


class Choice(NamedTuple):
    """Losses that are chosen from, and which of them are."""

    elements: Elements
    kept: Tensor
    """``(elements,)``."""

    def total(self) -> Tensor:
        """Return the sum of what was kept."""
        return torch.where(self.kept, _weighted(self.elements), 0.0).sum()

    def size(self) -> Tensor:
        """Return what the mean divides by, 1 where there is nothing."""
        factors = self.elements.factors
        if factors is None or not self.elements.is_weighted_mean:
            size = self.kept.sum().to(self.elements.losses.dtype)
        else:
            size = torch.where(self.kept, factors, 0.0).sum()
        return torch.where(size > 0, size, 1.0)

    def reduced(self, reduction: Reduction) -> Tensor:
        """Return what torch's losses return for a reduction."""
        if reduction == "none":
            losses = torch.where(self.kept, _weighted(self.elements), 0.0)
            return losses.view(self.elements.shape)
        total = self.total() / self.size() if reduction == "mean" else self.total()
        # so that a network that has broken down does not look like a perfect one
        valid, broken = self.elements.valid, self.elements.broken
        if on_host(valid) and bool(valid.any()):
            return total
        return total.masked_fill(broken.any() & ~valid.any(), torch.nan)

    def mined(self) -> Mined:
        """Return what was kept, in numbers."""
        losses, classes = self.elements.losses.detach(), self.elements.classes
        lowest = losses.masked_fill(~self.kept, torch.inf)
        threshold = lowest.min() if len(lowest) else lowest.new_full((), torch.inf)
        both = (self.kept, self.elements.valid)
        kept, valid = (each.sum() for each in both)
        if classes is None:
            return Mined(kept, valid, threshold, None, None)
        is_known = (classes >= 0) & (classes < BINS)
        bins = classes.long().masked_fill(~is_known, 0)
        zeros = torch.zeros(BINS, dtype=torch.int64, device=losses.device)
        by_class = (zeros.scatter_add(0, bins, (each & is_known).long()) for each in both)
        return Mined(kept, valid, threshold, *by_class)


def _weighted(elements: Elements) -> Tensor:
    losses, factors = elements.losses, elements.factors
    return losses if factors is None else losses * factors


def chosen(elements: Elements, mining: Mining, stage: Stage | None = None) -> Choice:
    """Choose from the losses of a batch."""
    losses, classes = elements.losses.detach(), elements.classes
    given = Candidates(losses, elements.valid, classes, elements.is_binary)
    return Choice(elements, select(given, mining, stage))


def chosen_of_all_ranks(
    elements: Elements, mining: Mining, stage: Stage | None, pool: Pool
) -> tuple[Choice, Choice]:
    """Choose from what all ranks have; return the choice of all, and this rank's part of it."""
    losses, classes, factors = elements.losses, elements.classes, elements.factors
    marked = losses.detach().masked_fill(~elements.valid, -torch.inf)
    columns = [marked.masked_fill(elements.broken, torch.nan)]
    columns += [each.to(losses.dtype) for each in (classes, factors) if each is not None]
    (everything, *others), start = pool.join(columns)
    whole = chosen(
        elements._replace(
            losses=everything,
            valid=everything.isfinite(),
            broken=everything.isnan(),
            classes=None if classes is None else others[0].long(),
            factors=None if factors is None else others[-1],
        ),
        mining,
        stage,
    )
    return whole, Choice(elements, whole.kept[start : start + len(losses)])


def one_behind_the_other(batches: list[Elements]) -> Elements:
    """Return the losses of several batches as those of one."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def joined(name: str) -> Any:
        columns = [getattr(each, name) for each in batches]
        return None if columns[0] is None else torch.cat(columns)

    names = ("losses", "valid", "classes", "factors", "broken")
    return first._replace(**{name: joined(name) for name in names})
