"""What validation said: its losses beside those of training, and its other metrics."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from lightning_diag.history import History, Series
from lightning_diag.rules.course import WIDTH, Course, once
from lightning_diag.rules.reading import parameters, weights

_MOST = 64
"""Validations at most: of more, neighbours are joined (our choice)."""
_PICKED = 256
"""Training losses before a validation that are looked at, at most."""
_TERMS = ("loss", "kl", "nll", "bce", "xent", "elbo")
"""Parts of names that are terms of a loss: one may rise while their sum falls, as the divergence of
a variational autoencoder does."""

_AVERAGED = frozenset(
    {
        "balanced", "class", "exact", "line", "m", "macc", "macro", "mean", "per", "sentence",
        "seq", "sequence", "set", "string", "subset", "word",
    }
)  # fmt: skip
"""Words of accuracies that are no share of right predictions: averaged over classes, or of whole
sequences."""


class Check(NamedTuple):
    """What one validation said, or the median of a few neighbouring ones."""

    step: int
    """The step after which it ran; of several, the last."""
    value: float
    """The metric."""
    train: float
    """Mean training loss of the steps since the validation before: a mean, as that of validation.

    Losses of single samples have a median far below it."""


def validation_metric(history: History) -> str | None:
    """Return the metric that holds the validation loss, None when it is not known."""
    known: dict[str, Any] = history.meta.get("validation") or {}
    name = known.get("loss")
    return f"validation/{name}" if name else None


def read_checks(history: History, metric: str) -> list[Check]:
    """Return the validations so far, oldest first, joined to at most 64."""
    seen = history.series(metric)
    if not seen.steps:
        return []
    stamp = (len(seen.steps), seen.steps[-1], str(seen.values[-1]))
    return once(history, f"checks/{metric}", stamp, lambda: _joined(_checks(history, metric, seen)))


def _checks(history: History, metric: str, seen: Series) -> list[Check]:
    """Return each validation with its training loss; those known before are not read again."""
    known: list[Check] = once(history, f"each/{metric}", None, list)
    at = len(known)
    if at and not (
        at < len(seen.steps) and known[-1][:2] == (seen.steps[at - 1], seen.values[at - 1])
    ):
        known.clear()
    before = known[-1].step if known else -1
    if len(seen.steps) - len(known) == 1:
        newest = history.window("loss/train", seen.steps[-1] - before + WIDTH)
        losses = Series([step for step, _ in newest], [values[""] for _, values in newest])
    else:
        losses = history.series("loss/train")
    for i in range(len(known), len(seen.steps)):
        step = seen.steps[i]
        end = bisect_right(losses.steps, step)
        start = min(bisect_right(losses.steps, before), max(0, end - WIDTH))
        known.append(Check(step, seen.values[i], _mean(losses.values[start:end])))
        before = step
    return known


def _joined(checks: Sequence[Check]) -> list[Check]:
    """Return at most 64 checks, the median of neighbours where there are more."""
    finite = [check for check in checks if math.isfinite(check.value)]
    together = max(1, math.ceil(len(finite) / _MOST))
    joined = []
    # Groups end with the newest, so that what it says is never left out.
    for end in range((len(finite) - 1) % together + 1, len(finite) + 1, together):
        group = finite[max(0, end - together) : end]
        value, train = median(c.value for c in group), median(c.train for c in group)
        joined.append(Check(group[-1].step, value, train))
    return joined


def _mean(values: Sequence[float]) -> float:
    picked = values[-_PICKED:]
    finite = [value for value in picked if math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def is_ripe(history: History, course: Course, patience: int) -> bool:
    """Return whether a run is old enough to say that it does not learn.

    That is `patience` steps, and two validations if it has any: steps of a few samples each see
    little in that time. After eight times as many steps it is old enough anyhow.
    """
    metric = validation_metric(history)
    if course.steps < patience or metric is None or course.steps >= 8 * patience:
        return course.steps >= patience
    return len(history.series(metric).steps) > 1


def metric_modes(history: History) -> dict[str, str]:
    """Return the metrics of validation that are no loss, with the end that is good.

    Those whose good end is not known are left out.
    """
    known: dict[str, Any] = history.meta.get("validation") or {}
    metrics: dict[str, str] = known.get("metrics") or {}
    return {
        f"validation/{name}": mode
        for name, mode in metrics.items()
        if mode and name != known.get("loss") and not any(term in name.lower() for term in _TERMS)
    }


def outnumbering(history: History) -> tuple[int, int]:
    """Return the trained weights and the targets of all samples, 0 where they are not known.

    A model of more weights than targets can learn any of them by heart.
    """
    size = sum(math.prod(parameters(history)[name]["shape"]) for name in weights(history))
    losses: dict[str, dict[str, Any]] = history.meta.get("losses") or {}
    each = [math.prod((known.get("target_shape") or [1])[1:]) for known in losses.values()]
    return size, (history.meta.get("train_samples") or 0) * max(each, default=1)


def is_accuracy(metric: str) -> bool:
    """Return whether a metric is called as the share of right predictions is.

    Example:
        >>> is_accuracy("validation/val_acc"), is_accuracy("validation/mAcc")
        (True, False)
    """
    told = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", metric)}
    return bool(told & {"acc", "accuracy"}) and not told & _AVERAGED


def better_metrics(history: History, step: int) -> list[str]:
    """Return the metrics whose newest values are as good as those about a step."""
    found = []
    for metric, mode in metric_modes(history).items():
        steps, values = history.series(metric)
        then, now = values[: bisect_right(steps, step)][-3:], values[-3:]
        if then and now:
            sign = 1 if mode == "max" else -1
            if sign * median(now) >= sign * median(then):
                found.append(metric)
    return found
