"""What happened in a run just before a problem began."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_diag.finding import Event
from lightning_diag.history import History, Series
from lightning_diag.rules.leap import LEAP, out_of_the_blue
from lightning_diag.rules.reading import centre, shown

_LOOKS = 3
"""Watched steps that count as just before (our choice): what began is seen one look late, and what
brought it about may lie between two looks."""
_BEFORE = 16
_GROUPS = 8
_EARLIEST = 8
"""First step whose past is judged (our choice): over the first few, a warm-up doubles the learning
rate and gradients have no level yet."""
_RATE = 2.0
"""Change of the learning rate that counts (our choice): warm-ups and decays go slower from one look
to the next, and nothing is known to break at less."""
_SPIKE = 10.0
"""Gradient norm over the median before that counts (our choice): single healthy batches stay well
below."""


def what_happened(history: History, step: int) -> tuple[Event, ...]:
    """Return what changed since the third look before a step: learning rate, gradient, and loss."""
    if step < _EARLIEST:
        return ()
    return (*_rates(history, step), *_spikes(history, step), *_leaps(history, step))


def _upto(series: Series, step: int) -> Series:
    """Return the part of a series up to a step."""
    kept = [(s, v) for s, v in zip(*series, strict=True) if s <= step]
    return Series([s for s, _ in kept], [v for _, v in kept])


def _rates(history: History, step: int) -> Iterator[Event]:
    for group in history.places("lr/value")[:_GROUPS]:
        steps, values = _upto(history.series("lr/value", group), step)
        first = values[-_LOOKS] if len(values) >= _LOOKS else 0.0
        if not first > 0:
            continue
        for at, value in zip(steps[-_LOOKS:], values[-_LOOKS:], strict=True):
            if value >= _RATE * first or 0 < value <= first / _RATE:
                kind, verb = ("lr-rise", "rose") if value > first else ("lr-fall", "fell")
                yield Event(
                    kind,
                    at,
                    f"The learning rate of `{group}` {verb} from {shown(first)} to {shown(value)} "
                    f"at step {at:,}.",
                )
                break


def _spikes(history: History, step: int) -> Iterator[Event]:
    for place in history.places("gradient/total_norm")[:_GROUPS]:
        steps, values = _upto(history.series("gradient/total_norm", place), step)
        before = centre(values[-_LOOKS - _BEFORE : -_LOOKS])
        newest = list(zip(values[-_LOOKS:], steps[-_LOOKS:], strict=True))
        peak, at = max(newest, default=(0.0, step))
        if before > 0 and peak >= _SPIKE * before:
            yield Event(
                "gradient-spike",
                at,
                f"The gradient norm jumped from {shown(before)} to {shown(peak)} at step {at:,}.",
            )


def _leaps(history: History, step: int) -> Iterator[Event]:
    looks = [at for at in history.steps if at < step][-_LOOKS:]
    leap = out_of_the_blue(history, looks[0] if looks else step, step)
    if leap is not None:
        yield Event(
            LEAP,
            leap.step,
            f"The loss leapt from {shown(leap.level)} to {shown(leap.loss)} at step "
            f"{leap.step:,} while it was near its best, without a rise of the learning rate, and "
            "after steps of a usual size: that points to its batch.",
        )
