"""`suggest_batch_size`: what a noise scale says of a batch size, as a pure function (W15)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["small", "fitting", "large", "unknown"]

NEAR = 4.0
"""Times the noise scale, up or down, within which a batch size fits. Our choice: the simple noise
scale tells the critical batch size to within a small factor (McCandlish et al. 2018, section 3)."""


@dataclass(frozen=True)
class BatchSizeAdvice:
    """What the noise scale says of a batch size."""

    batch_size: int
    """Samples of one optimizer step that were judged."""
    suggested: int | None
    """The power of two nearest to the noise scale; None where that is not known."""
    least: int | None
    """Least batch size that is still within reach of the suggestion; None as above."""
    most: int | None
    """Largest such batch size; None as above."""
    steps_ratio: float | None
    """Optimizer steps that training takes, over those that endless batches would take, 1 or more;
    None as above."""
    samples_ratio: float | None
    """Samples that training takes, over those that the smallest batches would take, 1 or more;
    None as above."""
    verdict: Verdict
    """``small``: larger batches save steps; ``large``: smaller ones save samples."""
    reason: str
    """The same in one sentence."""


def suggest_batch_size(
    noise_scale: float | None,
    batch_size: int,
    *,
    low: float | None = None,
    high: float | None = None,
    near: float = NEAR,
) -> BatchSizeAdvice:
    """Judge a batch size by the noise scale.

    To get as far, batches of B samples need 1 + N/B times the fewest possible steps, and 1 + B/N
    times the fewest possible samples, where N is the critical batch size, which the noise scale
    estimates. A batch is called small or large only if the whole interval says so.

    Args:
        noise_scale: In samples, 0 or more; None or not finite if it is not known.
        batch_size: Samples of one optimizer step, over micro-batches and ranks, at least 1.
        low: Lower end of the noise scale's interval; the noise scale itself if None.
        high: Upper end, infinite where there is none; the noise scale itself if None.
        near: Factor up or down within which a batch size fits, at least 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> advice = suggest_batch_size(1000.0, 32)
        >>> advice.verdict, advice.suggested, advice.least, advice.most
        ('small', 1024, 256, 4096)

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162,
        equations 2.11 and 2.12.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1 sample, got {batch_size}.")
    if not near >= 1:
        raise ValueError(f"`near` must be at least 1, got {near}.")
    low, high = (noise_scale if end is None else end for end in (low, high))
    for name, value in (("noise_scale", noise_scale), ("low", low), ("high", high)):
        if value is not None and value < 0:
            raise ValueError(f"`{name}` must be at least 0 samples, got {value}.")
    if noise_scale is None or not math.isfinite(noise_scale):
        return _unknown(batch_size, low, near)
    scale = max(1.0, noise_scale)
    steps, samples = 1 + scale / batch_size, 1 + batch_size / scale
    verdict = _verdict(batch_size, (low, high), near)
    return BatchSizeAdvice(
        batch_size,
        _power(scale),
        max(1, _power(scale / near)),
        _power(scale * near),
        steps,
        samples,
        verdict,
        _reason(batch_size, scale, steps, samples, verdict),
    )


def _verdict(batch_size: int, interval: tuple[float | None, float | None], near: float) -> Verdict:
    low, high = interval
    if low is not None and batch_size * near < low:
        return "small"
    if high is not None and batch_size > near * max(1.0, high):
        return "large"
    return "fitting"


def _reason(batch_size: int, scale: float, steps: float, samples: float, verdict: Verdict) -> str:
    begin = f"Batches of {batch_size:,} samples are "
    told = f"the noise scale of about {scale:,.0f}"
    if verdict == "small":
        return (
            f"{begin}far below {told}: batches twice as large need {_saved(steps):.0%} fewer steps "
            "to get as far."
        )
    if verdict == "large":
        return (
            f"{begin}far above {told}: they need {samples:.1f} times the samples that small "
            "batches need to get as far."
        )
    return (
        f"{begin}near {told}: they need {steps:.1f} times the fewest steps, and {samples:.1f} "
        "times the fewest samples."
    )


def _saved(steps: float) -> float:
    """Return the share of steps that a batch twice as large saves."""
    return 1 - (1 + (steps - 1) / 2) / steps


def _unknown(batch_size: int, low: float | None, near: float) -> BatchSizeAdvice:
    """Return what can be said if only a lower end is known, or nothing."""
    if low is not None and math.isfinite(low) and batch_size * near < low:
        reason = (
            f"Batches of {batch_size:,} samples are far below the noise scale, which is at least "
            f"{low:,.0f}: larger batches need fewer steps nearly in proportion."
        )
        return BatchSizeAdvice(batch_size, None, _power(low), None, None, None, "small", reason)
    reason = f"The noise scale is not known yet, so nothing is said of batches of {batch_size:,}."
    return BatchSizeAdvice(batch_size, None, None, None, None, None, "unknown", reason)


def _power(samples: float) -> int:
    """Return the nearest power of two, at least 1."""
    return 1 << max(0, round(math.log2(max(1.0, samples))))
