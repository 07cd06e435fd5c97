"""Key numbers of a run, as labelled text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import median

from lightning_diag.batch_size import suggest_batch_size
from lightning_diag.history import History
from lightning_diag.report.coverage import overhead
from lightning_diag.report.words import number, percent

_LEVEL = 16
"""Numbers behind one level: their median is off by a third of the noise (our choice)."""


def key_numbers(history: History) -> Iterator[tuple[str, str]]:
    """Yield label and text of the numbers that describe a run; what was not observed is absent."""
    if len(history):
        yield "Steps", f"{max(history.steps) + 1:,}, of which {len(history):,} were watched"
    losses = history.series("loss/train").values
    if losses:
        low = min((v for v in losses if math.isfinite(v)), default=math.nan)
        newest = f"{number(level(losses))} at last (median of {min(_LEVEL, len(losses))} steps)"
        yield "Training loss", f"{number(losses[0])} at first, {newest}, lowest {number(low)}"
    yield from _validation(history)
    for title, metric in (
        ("Gradient norm", "gradient/total_norm"),
        ("Loss noise", "loss/noise"),
        ("Gradient noise scale", "gradient/noise_scale"),
    ):
        values = history.series(metric).values
        if values:
            yield title, f"{number(values[0])} at first, {number(level(values))} at last"
    yield from _batch_size(history)
    told = spread(history, "update/ratio")
    if told:
        yield "Update ratio", told
    for place, value in islice(history.last("lr/value").items(), 3):
        yield "Learning rate", f"{number(value)} at last ({place})"
    dead = list(history.last("dead_relu/fraction").values())
    if dead:
        mean = math.fsum(dead) / len(dead)
        yield "Dead ReLU units", f"{percent(mean)} on average, {percent(max(dead))} at most"
    yield "Overhead", overhead(history)


def _batch_size(history: History) -> Iterator[tuple[str, str]]:
    """Yield what the measured noise scale says of the batch size, if it was measured."""
    newest = {
        name: history.last(f"noise_scale/{name}")
        for name in ("samples", "low", "high", "batch_size")
    }
    for place, size in newest["batch_size"].items():
        scale = newest["samples"].get(place)
        if scale is not None and size >= 1:
            low, high = newest["low"].get(place), newest["high"].get(place, math.inf)
            advice = suggest_batch_size(scale, round(size), low=low, high=high)
            yield "Batch size" + (f" ({place})" if place else ""), advice.reason


def level(values: Sequence[float]) -> float:
    """Return the median of the newest numbers, NaN counting as infinite."""
    newest = [math.inf if math.isnan(value) else value for value in values[-_LEVEL:]]
    return median(newest)


def spread(history: History, metric: str) -> str:
    """Describe the newest numbers of a metric over its places."""
    values = {p: v for p, v in history.last(metric).items() if math.isfinite(v)}
    if not values:
        return ""
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    text = f"median {number(median(values.values()))} at last"
    return f"{text}, from {number(values[least])} ({least}) to {number(values[most])} ({most})"


def _validation(history: History) -> Iterator[tuple[str, str]]:
    known = history.meta.get("validation") or {}
    ends = {**(known.get("metrics") or {}), **({known["loss"]: "min"} if "loss" in known else {})}
    for metric in history.metrics():
        name = metric.removeprefix("validation/")
        if name == metric:
            continue
        values = history.series(metric).values
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            best = {"min": min, "max": max}.get(ends.get(name, ""))
            told = f", best {number(best(finite))}" if best else ""
            yield f"Validation {name}", f"{number(values[-1])} at last{told}"
