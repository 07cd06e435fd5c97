"""The loss: training's with its band, validation's, learning rates, and the gap between both."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lightning_diag.history import History, Series
from lightning_diag.report.loss import LOG_FROM
from lightning_diag.report.payload.numbers import Line, line, tidy

MOST_POINTS = 1_500
"""Points of the training loss: more than a wide page has pixels to tell apart."""
MOST_GROUPS, MOST_RATES = 12, 600
"""Learning rates shown, and points of each. Our choice."""
MOST_SPIKES = 200
"""Spikes that are marked, the newest. Our choice."""
_SMOOTH = 50
"""The smoothed line is an average over a 25th of the curve (our choice, as wide as the eye's)."""


def loss_curves(history: History) -> dict[str, Any]:
    """Return everything that the chart of the loss shows."""
    train = history.series("loss/train")
    return {
        "train": _train(train) if train.steps else None,
        "validation": _validation(history),
        "lr": _rates(history),
        "spikes": _spikes(history, train),
        "log": _is_log(train),
    }


def _train(series: Series) -> dict[str, Any]:
    """Join neighbouring steps to points: mean, least, largest, and what was not finite."""
    steps, values = series
    size = math.ceil(len(steps) / MOST_POINTS)
    parts = [
        (steps[i : i + size], [v for v in values[i : i + size] if math.isfinite(v)])
        for i in range(0, len(steps), size)
    ]
    means = [sum(good) / len(good) if good else None for _, good in parts]
    return {
        "step": [where[len(where) // 2] for where, _ in parts],
        "value": [None if mean is None else tidy(mean) for mean in means],
        "low": [tidy(min(good)) if good else None for _, good in parts],
        "high": [tidy(max(good)) if good else None for _, good in parts],
        "smooth": _smoothed(means, log=_is_log(series)),
        "nonfinite": _nonfinite(series),
        "every": size,
    }


def _smoothed(means: Sequence[float | None], *, log: bool) -> list[float | str | None]:
    """Return the centred moving average, as the axis shows it, absent where nothing was finite."""
    reach = max(1, len(means) // _SMOOTH)
    shown = [None if mean is None else math.log(mean) if log else mean for mean in means]
    sums, counts = [0.0], [0]
    for value in shown:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    line: list[float | str | None] = []
    for i, value in enumerate(shown):
        first, last = max(0, i - reach), min(len(shown), i + reach + 1)
        n = counts[last] - counts[first]
        mean = (sums[last] - sums[first]) / n if n else 0.0
        line.append(None if value is None else tidy(math.exp(mean) if log else mean))
    return line


def _nonfinite(series: Series) -> list[list[int]]:
    """Return the stretches of steps whose loss was not finite, with how many there are in each."""
    steps, values = series
    stretches: list[list[int]] = []
    for bad, group in groupby(range(len(steps)), key=lambda i: not math.isfinite(values[i])):
        if bad:
            part = list(group)
            stretches.append([steps[part[0]], steps[part[-1]], len(part)])
    while len(stretches) > MOST_SPIKES:  # neighbours are told as one
        pairs = [stretches[i : i + 2] for i in range(0, len(stretches), 2)]
        stretches = [[pair[0][0], pair[-1][1], sum(one[2] for one in pair)] for pair in pairs]
    return stretches


def _is_log(series: Series) -> bool:
    """Return whether a logarithmic axis shows the curve better."""
    finite = [value for value in series.values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > LOG_FROM


def validation_name(history: History) -> str | None:
    """Return the name of the validation loss: the one that the run named, or the only candidate."""
    named = (history.meta.get("validation") or {}).get("loss")
    if named and history.series(f"validation/{named}").steps:
        return str(named)
    known = [name.removeprefix("validation/") for name in history.metrics()]
    losses = [
        name for name in known if "loss" in name and f"validation/{name}" in history.metrics()
    ]
    return losses[0] if len(losses) == 1 else None


def _validation(history: History) -> dict[str, Any] | None:
    name = validation_name(history)
    if name is None:
        return None
    return {**line(*history.series(f"validation/{name}"), MOST_POINTS), "name": name}


def _rates(history: History) -> dict[str, Line]:
    groups = history.places("lr/value")[:MOST_GROUPS]
    series = {group: history.series("lr/value", group) for group in groups}
    return {group: line(*found, MOST_RATES) for group, found in series.items() if found.steps}


def _spikes(history: History, train: Series) -> list[int]:
    """Return the steps of spikes: of the steps since the last record, as many as left the band.

    The history knows how many there were; they were the largest. What is not finite is told apart.
    """
    known = dict(zip(*train, strict=True))
    spikes: list[int] = []
    before = -1
    for step, seen in zip(*history.series("loss/spike_count"), strict=True):
        if math.isfinite(seen) and seen > 0:
            first, last = bisect_right(train.steps, before), bisect_right(train.steps, step)
            since = [s for s in train.steps[first:last] if math.isfinite(known[s])]
            n = max(0, int(seen) - (last - first - len(since)))
            spikes += sorted(sorted(since, key=lambda s: -known[s])[:n])
        before = step
    return spikes[-MOST_SPIKES:]


def gap(history: History) -> dict[str, list[Any]] | None:
    """Return training against validation: at each validation the mean training loss since the last.

    None without both.
    """
    name = validation_name(history)
    train = history.series("loss/train")
    if name is None or not train.steps:
        return None
    steps, values = history.series(f"validation/{name}")
    rows: list[tuple[int, float, float]] = []
    before = -1
    for step, value in zip(steps, values, strict=True):
        part = slice(bisect_right(train.steps, before), bisect_right(train.steps, step))
        good = [v for v in train.values[part] if math.isfinite(v)]
        if good:
            rows.append((step, sum(good) / len(good), value))
        before = step
    if not rows:
        return None
    shown = rows[:: math.ceil(len(rows) / MOST_POINTS)]
    return {
        "step": [step for step, _, _ in shown],
        "train": [tidy(value) for _, value, _ in shown],
        "validation": [tidy(value) for _, _, value in shown],
    }
