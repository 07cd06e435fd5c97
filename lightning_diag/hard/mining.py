"""Which losses of a batch are kept: pure functions of tensors, without a wait for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_diag.hard.reduction import is_compiling

_BILLION = 1_000_000_000
"""Shares are told apart by nine digits, so that 7 % of 100 is 7: 0.07 * 100 rounded up is 8."""
_NOBODY = torch.iinfo(torch.int64).max
"""Stands for the class of what does not count, behind all others."""


class Stage(NamedTuple):
    """How far mining has been phased in."""

    done: Tensor
    """``()`` whole number on the host, 0 to `total`: 0 keeps all, `total` what the rule says."""
    total: int


@dataclass(frozen=True)
class Mining:
    """Says which losses are kept; one of `keep`, `threshold` and `ratio`, else the hardest quarter.

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.
    """

    keep: int | float | None = None  # a count is 1, all are 1.0
    """A share of what counts, above 0 and at most 1, rounded up; a whole number is a count."""
    threshold: float | None = None
    """Losses above it are kept."""
    min_kept: int | None = None
    """Kept at least, as far as there are so many; 0 with `ratio`, else 1."""
    ratio: float | Mapping[int, float] | None = None
    """How many times the rarest class, or by class how many times the classes not named."""
    skip_top: float = 0.0
    """Share of the highest losses that is left out, rounded down; of each class with `ratio`."""

    def __post_init__(self) -> None:
        """Check the arguments."""
        given = [n for n in ("keep", "threshold", "ratio") if getattr(self, n) is not None]
        if len(given) > 1:
            names = " and ".join(f"`{name}`" for name in given)
            raise ValueError(f"One thing says what is kept, got {names}: leave one of them out.")
        if self.keep is not None:
            _check_keep(self.keep)
        if self.threshold is not None and math.isnan(self.threshold):
            raise ValueError("`threshold` must be a loss, got nan.")
        if self.min_kept is not None and not _is_whole(self.min_kept, 0):
            message = f"`min_kept` must be a whole number of at least 0, got {self.min_kept}."
            raise ValueError(message)
        if self.ratio is not None:
            _check_ratio(self.ratio)
        if not 0 <= self.skip_top < 1:
            message = f"`skip_top` must be a share from 0 to below 1, got {self.skip_top}."
            raise ValueError(message)

    @property
    def least(self) -> int:
        """What is kept at least, of each class with `ratio`."""
        if self.min_kept is None:
            return 0 if self.ratio is not None else 1
        return self.min_kept

    def skipped(self, size: Tensor) -> Tensor:
        """Return how many of the highest losses of groups of a size are left out."""
        return share_of(size, self.skip_top, up=False)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_keep(keep: object) -> None:
    is_share = isinstance(keep, float) and 0 < keep <= 1
    if not is_share and not _is_whole(keep, 1):
        raise ValueError(
            "`keep` must be a share above 0 and at most 1.0, or a whole number of at least 1, got "
            f"{keep!r}."
        )


def _check_ratio(ratio: float | Mapping[int, float]) -> None:
    values = list(ratio.values()) if isinstance(ratio, Mapping) else [ratio]
    if not values or not all(0 < value < float("inf") for value in values):
        message = f"`ratio` must be above 0, for all the classes that it names, got {ratio}."
        raise ValueError(message)
    if isinstance(ratio, Mapping) and not all(_is_whole(each, 0) for each in ratio):
        raise ValueError(f"`ratio` must name classes by whole numbers, got {ratio}.")


class Candidates(NamedTuple):
    """Losses to choose from, ``(elements,)`` each."""

    losses: Tensor
    """Detached; whatever stands where `valid` is false."""
    valid: Tensor
    """Which of them count."""
    classes: Tensor | None = None
    """Needed for a ratio."""
    is_binary: bool = False
    """Whether class 1 is yes and 0 is no, so that a ratio is that of no to yes."""


def select(given: Candidates, mining: Mining, stage: Stage | None = None) -> Tensor:
    """Return which elements are kept.

    The higher loss comes first, and of equal ones the one that stands first.

    Args:
        given: What is chosen from.
        mining: What is kept.
        stage: How far mining has been phased in; None: wholly.

    Shape:
        Returns ``(elements,)``.

    Raises:
        ValueError: If there is a ratio, and no classes.

    Example:
        >>> losses = torch.tensor([0.5, 2.0, 0.1, 1.0])
        >>> select(Candidates(losses, losses > 0.2), Mining(keep=0.5)).tolist()
        [False, True, False, True]
    """
    ratio = mining.ratio
    if ratio is None:
        return _of_all(given, mining, stage) if given.losses.numel() else given.valid
    if given.classes is None:
        raise ValueError(
            "`ratio` needs to know the class of each loss: give targets of classes, or leave it "
            "out."
        )
    if not given.losses.numel():
        return given.valid
    if isinstance(ratio, Mapping):
        return _against_the_rest(given, mining, ratio, stage)
    if given.is_binary:
        return _against_the_rest(given, mining, {0: ratio}, stage)
    return _against_the_rarest(given, mining, ratio, stage)


def _of_all(given: Candidates, mining: Mining, stage: Stage | None) -> Tensor:
    losses, valid = given.losses, given.valid
    size = valid.sum()
    if mining.threshold is not None:
        kept = (valid & (losses > mining.threshold)).sum() - mining.skipped(size)
    elif isinstance(mining.keep, int):
        kept = torch.full_like(size, mining.keep)
    else:
        kept = share_of(size, 0.25 if mining.keep is None else mining.keep, up=True)
    return _hardest(losses, valid, kept.clamp(min=mining.least), mining, stage)


def _against_the_rest(
    given: Candidates, mining: Mining, ratio: Mapping[int, float], stage: Stage | None
) -> Tensor:
    """Keep all of the classes that are not named, and of the others so many times that."""
    groups = {each: given.valid & (given.classes == each) for each in ratio}
    rest = given.valid
    for group in groups.values():
        rest = rest & ~group
    size = rest.sum()
    reference = size - mining.skipped(size)
    kept = _hardest(given.losses, rest, size, mining, stage)
    for each, group in groups.items():
        quota = share_of(reference, ratio[each], up=True).clamp(min=mining.least)
        kept = kept | _hardest(given.losses, group, quota, mining, stage)
    return kept


def _against_the_rarest(
    given: Candidates, mining: Mining, ratio: float, stage: Stage | None
) -> Tensor:
    """Keep of each class so many times the elements of the rarest class that there is."""
    losses, valid, classes = given.losses, given.valid, given.classes
    assert classes is not None
    order = losses.masked_fill(~valid, -torch.inf).argsort(descending=True, stable=True)
    grouped, regrouped = classes.long().masked_fill(~valid, _NOBODY)[order].sort(stable=True)
    first = torch.searchsorted(grouped, grouped)
    size = torch.searchsorted(grouped, grouped, right=True) - first
    place = torch.arange(len(grouped), device=losses.device) - first
    counts = grouped != _NOBODY
    rarest = size.masked_fill(~counts, _NOBODY).min() * counts.any()
    quota = share_of(rarest, ratio, up=True).clamp(min=mining.least).expand_as(size)
    skipped, end = _phased(size, mining.skipped(size), quota, stage)
    kept = counts & (place >= skipped) & (place < end)
    return torch.zeros_like(valid).scatter(0, order[regrouped], kept)


def _hardest(
    losses: Tensor, among: Tensor, quota: Tensor, mining: Mining, stage: Stage | None
) -> Tensor:
    """Return the hardest of a group, so many of them, but for those that are skipped."""
    size = among.sum()
    skipped, end = _phased(size, mining.skipped(size), quota, stage)
    found = top(losses, among, end)
    return found & ~top(losses, among, skipped) if mining.skip_top else found


def _phased(
    size: Tensor, skipped: Tensor, kept: Tensor, stage: Stage | None
) -> tuple[Tensor, Tensor]:
    """Return how many are skipped, and how many are skipped or kept, at a stage."""
    kept = torch.minimum(kept, size - skipped)
    if stage is not None:
        left_out = (size - skipped - kept) * stage.done // stage.total
        skipped = skipped * stage.done // stage.total
        kept = size - skipped - left_out
    return skipped, skipped + kept


def share_of(size: Tensor, share: float, *, up: bool) -> Tensor:
    """Return a share of whole numbers, rounded up or down; what is whole but for 1e-9 is whole.

    Example:
        >>> share_of(torch.tensor(100), 0.07, up=True)
        tensor(7)
    """
    billionths = round(share * _BILLION)
    if up:
        return (size * (billionths - 1) + _BILLION - 1) // _BILLION
    return size * (billionths + 1) // _BILLION if billionths else torch.zeros_like(size)


def top(losses: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Return the highest of some losses; of equal ones those that stand first.

    Args:
        losses: At least one, detached.
        among: Which of them may be chosen.
        count: How many; all of them if there are fewer.

    Shape:
        ``(elements,)``, ``(elements,)``, ``()`` -> ``(elements,)``.

    Example:
        >>> top(torch.tensor([1.0, 3.0, 3.0]), torch.ones(3).bool(), torch.tensor(1)).tolist()
        [False, True, False]
    """
    ranked = losses.masked_fill(~among, -torch.inf)
    edge = _kth_largest(ranked, count.clamp(1, len(losses)))
    above = ranked > edge
    level = among & (ranked == edge)
    return above | (level & (level.cumsum(0) <= count - above.sum()))


def _kth_largest(values: Tensor, k: Tensor) -> Tensor:
    if on_host(values):
        return values.kthvalue(len(values) - int(k) + 1).values
    # Sorting costs more, but nobody has to wait for `k`.
    return values.sort(descending=True).values.gather(0, (k - 1).reshape(1)).squeeze(0)


def on_host(x: Tensor) -> bool:
    """Return whether numbers may be read without a wait, and without breaking a compiled graph."""
    return x.device.type == "cpu" and not is_compiling()
