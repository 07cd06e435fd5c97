"""`clip_advice`: what a run's gradient norms say of clipping, as a pure function (R6, P34)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from lightning_diag.history import History

Verdict = Literal["insufficient data", "even", "spikes", "always"]

_SKIPPED = 0.1
"""Our choice: share of the steps, at the start, that is left out: norms there are unlike later."""
_UNTOUCHED = 0.9999
"""Our choice, as in `GradientMonitor`: clipping that leaves this much of the norm is rounding."""
_SPIKE = 5.0
"""Our choice: times the median norm from which on a step leaps out of the others."""
_ALWAYS = 0.5
"""Our choice: share of clipped steps from which on the threshold, and not the gradient, sets the
length of the typical step."""


@dataclass(frozen=True)
class ClipAdvice:
    """What gradient norms, before clipping, say of clipping."""

    verdict: Verdict
    """``spikes``: some steps leap out, and clipping would cut them; ``even``: none does;
    ``always``: most steps are clipped."""
    suggested: float | None
    """Threshold for ``gradient_clip_val``, two digits; None with too little to judge by."""
    clipped_fraction: float | None
    """Share of the steps looked at that were clipped, 0 to 1; None if not observed."""
    median: float | None
    """Of the norms; None with too little to judge by."""
    largest: float | None
    """Of the norms; None as above."""
    observations: int
    """Finite norms that this rests on."""
    nonfinite: int
    """Steps left out, since their norm was not finite."""
    reason: str
    """The same in one sentence."""


def clip_advice(
    history: History, *, percentile: float = 90.0, least: int = 20
) -> dict[str, ClipAdvice]:
    """Judge the clipping of a run, and suggest a threshold, for each optimizer.

    The threshold is a percentile of the total norms before clipping, as they were observed after
    the first tenth of the run: statistics of the norm over many updates are what Pascanu et al.
    set it by.

    Args:
        history: Of a run that `GradientMonitor` watched.
        percentile: Of the norms, above 0 and below 100. 90 is our choice: it cuts the length of
            one step in ten, and leaves the typical one alone. AutoClip's authors clip far more.
        least: Norms below which the verdict is ``insufficient data``, at least 2. Our choice: a
            90th percentile of 20 rests on the two largest.

    Returns:
        Advice by the optimizer's place (empty if it is the only one); at least for one.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Pascanu et al., On the difficulty of training recurrent neural networks, 2013,
        arXiv:1211.5063, section 3.2. Seetharaman et al., AutoClip, 2020, arXiv:2007.14469.
    """
    if not 0 < percentile < 100:
        raise ValueError(f"`percentile` must be above 0 and below 100, got {percentile}.")
    if least < 2:
        raise ValueError(f"`least` must be at least 2 norms, got {least}.")
    if history.meta.get("trainer", {}).get("automatic_optimization") is False:
        reason = "With manual optimisation norms are seen after whatever clips by hand."
        return {"": _unjudged(reason)}
    places = history.places("gradient/total_norm") or [""]
    return {place: _advice(history, place, percentile, least) for place in places}


def _advice(history: History, place: str, percentile: float, least: int) -> ClipAdvice:
    norms = _late(history, "gradient/total_norm", place)
    finite = sorted(norm for norm in norms if math.isfinite(norm))
    nonfinite = len(norms) - len(finite)
    if len(finite) < least:
        seen = f"{len(finite)} gradient norms were observed, and {least} are needed."
        return _unjudged(seen, len(finite), nonfinite)
    kept = [x for x in _late(history, "gradient/clip_coefficient", place) if math.isfinite(x)]
    clipped = sum(x < _UNTOUCHED for x in kept) / len(kept) if kept else None
    suggested = _rounded(percentile_of(finite, percentile))
    middle, largest = median(finite), finite[-1]
    verdict: Verdict = "spikes" if largest > _SPIKE * middle else "even"
    if clipped is not None and clipped >= _ALWAYS:
        verdict = "always"
    found = ClipAdvice(
        verdict, suggested, clipped, middle, largest, len(finite), nonfinite, reason=""
    )
    return replace(found, reason=_reason(found, percentile))


def _late(history: History, metric: str, place: str) -> list[float]:
    """Return what was seen after the first tenth of the run."""
    series = history.series(metric, place)
    if not series.steps:
        return []
    first = _SKIPPED * (series.steps[-1] + 1)
    return [value for step, value in zip(series.steps, series.values, strict=True) if step >= first]


def percentile_of(ordered: Sequence[float], percentile: float) -> float:
    """Return a percentile of ascending numbers, at least one, between neighbours in proportion.

    Example:
        >>> percentile_of([1.0, 2.0, 3.0], 75)
        2.5
    """
    at = percentile / 100 * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _rounded(x: float) -> float:
    """Return two digits, as people type them."""
    return float(f"{x:.2g}")


def _reason(found: ClipAdvice, percentile: float) -> str:
    """Return the advice in one sentence, or two."""
    largest, clipped = found.largest or 0.0, found.clipped_fraction
    seen = (
        f"the largest of {found.observations:,} gradient norms is {largest:.3g}, "
        f"{_times(largest, found.median or 0.0)}"
    )
    use = (
        f"`Trainer(gradient_clip_val={found.suggested:g})` clips what exceeds {percentile:g} % of "
        "the norms"
    )
    if found.verdict == "always":
        return (
            f"{clipped or 0:.0%} of the steps are clipped, so the threshold sets the length of "
            f"most steps, as the learning rate does: {use}."
        )
    if found.verdict == "spikes":
        told = "" if clipped is None else f" ({clipped:.0%} of the steps were clipped)"
        return f"Some steps leap out: {seen}{told}. {use}."
    return f"No step leaps out: {seen}. Clipping is hardly needed; {use}."


def _times(largest: float, middle: float) -> str:
    return f"{largest / middle:.3g} times the median" if middle > 0 else "and the median is 0"


def _unjudged(reason: str, observations: int = 0, nonfinite: int = 0) -> ClipAdvice:
    why = f"Insufficient data: {reason[0].lower()}{reason[1:]}"
    return ClipAdvice("insufficient data", None, None, None, None, observations, nonfinite, why)
