"""From the lengths of steps to ratios: pure functions of lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles

Blocks = Sequence[Sequence[float]]
"""Seconds by round and position in the block."""
Masks = Sequence[Sequence[bool]]
"""Whether the step at that round and position was watched."""


@dataclass(frozen=True)
class Floor:
    """What a step takes when nothing disturbs it, in seconds."""

    plain: float
    """A step that was not watched; every step, where there is no such difference."""
    extra: float | None
    """What watching adds to a step, None where watched steps were not told apart."""
    share: float
    """Share of the steps that were told apart as watched, 0 to 1."""

    @property
    def mean(self) -> float:
        """Seconds per step, both kinds together."""
        return self.plain + self.share * (self.extra or 0.0)


def floor(blocks: Blocks, masks: Masks | None = None) -> Floor:
    """Take for each position in the block its minimum over the rounds, then the mean of these.

    What disturbs a step on a shared machine makes it longer, never shorter, and rarely hits the
    same position in all rounds. Watched steps that come at irregular positions would vanish in
    such a minimum. Where `masks` tells them apart, each is compared with the median of the other
    steps of its block, disturbed like it, and the differences are averaged, so that steps that are
    dearer now and then count in full.

    Args:
        blocks: Seconds by round and position, all rounds of the same length.
        masks: Which of these steps were watched; None where all are alike or periodic.

    Example:
        >>> floor([[2.0, 5.0, 2.0], [3.0, 2.0, 9.0]]).mean
        2.0
        >>> floor([[2.0, 5.0], [2.0, 2.0]], [[False, True], [False, False]])
        Floor(plain=2.0, extra=3.0, share=0.25)
    """
    if masks is None or all(map(all, masks)):
        plain = fmean(map(min, zip(*blocks, strict=True)))
        return Floor(plain, None, 0.0 if masks is None else 1.0)
    pairs = [list(zip(*both, strict=True)) for both in zip(blocks, masks, strict=True)]
    positions = [[s for s, flag in cell if not flag] for cell in zip(*pairs, strict=True)]
    extras = [extra for pair in pairs for extra in _extras(pair)]
    share = fmean(flag for mask in masks for flag in mask)
    plain = fmean(min(cell) for cell in positions if cell)
    return Floor(plain, fmean(extras) if extras else None, share)


def _extras(block: Sequence[tuple[float, bool]]) -> list[float]:
    others = [s for s, flag in block if not flag]
    return [s - median(others) for s, flag in block if flag and others]


def masks_of(first_steps: Sequence[int], length: int, watched: Sequence[int]) -> list[list[bool]]:
    """Mark the watched steps in blocks that begin at `first_steps`.

    Example:
        >>> masks_of([0, 6], 3, [1, 8])
        [[False, True, False], [False, False, True]]
    """
    steps = set(watched)
    return [[step in steps for step in range(first, first + length)] for first in first_steps]


@dataclass(frozen=True)
class Spread:
    """How the rounds differ."""

    median: float
    """Half of the rounds are below."""
    low: float
    """A quarter of the rounds is below."""
    high: float
    """A quarter of the rounds is above."""


def spread(blocks: Blocks, reference: Blocks) -> Spread:
    """Compare the rounds one by one: the seconds of a whole block over those of the reference.

    Example:
        >>> spread([[2.0, 2.0], [3.0, 3.0], [6.0, 2.0]], [[1.0, 3.0], [2.0, 2.0], [2.0, 2.0]])
        Spread(median=1.5, low=1.25, high=1.75)
    """
    ratios = [sum(b) / sum(r) for b, r in zip(blocks, reference, strict=True)]
    if len(ratios) == 1:
        return Spread(ratios[0], ratios[0], ratios[0])
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return Spread(median(ratios), low, high)


def total_ratio(blocks: Blocks, reference: Blocks) -> float:
    """Divide all seconds by all seconds of the reference.

    Example:
        >>> total_ratio([[2.0], [4.0]], [[2.0], [2.0]])
        1.5
    """
    return sum(map(sum, blocks)) / sum(map(sum, reference))
