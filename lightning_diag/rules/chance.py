"""What knowing nothing costs, and whether a run has learned more than that."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_diag.history import History
from lightning_diag.rules.calls import first_look, looks, loss_calls
from lightning_diag.rules.checks import read_checks, validation_metric
from lightning_diag.rules.course import Course
from lightning_diag.rules.reading import parameters, weights

LUCK = 3.0
"""Standard errors that the lowest of a few dozen levels is below the others (our choice)."""
_WON = 0.99
"""Share of the loss of knowing nothing below which unseen samples show that something was learned.
Our choice: labels without a pattern stay above it, but for luck with the first weights."""
_FEW = 3
"""Validations that show that nothing carries over, at least (our choice)."""
_OTHER = 1.5
"""Times `level` above which a first validation loss is in another unit (our choice)."""
_NARROW = 4
"""Units of a hidden layer below which it may be too small to learn anything (our choice)."""


def entropy(counts: Sequence[float]) -> float:
    """Return the loss of always answering with the frequencies, in nats.

    Few counts look less even than what they are drawn from; half a class each is added for that
    (Miller, 1955).

    Example:
        >>> round(entropy([5000.0, 5000.0]), 4)
        0.6932
    """
    whole = sum(counts)
    shares = [count / whole for count in counts if count > 0] if whole > 0 else []
    known = -sum(share * math.log(share) for share in shares)
    return known + (len(shares) - 1) / (2 * whole) if shares else 0.0


def has_halved(history: History) -> bool:
    """Return whether a newest look at a loss call shows half of its first loss."""
    newest = history.last("output/loss")
    return any(
        value < 0.5 * first_look(history, "output/loss", place) for place, value in newest.items()
    )


def steps_of_pass(history: History, place: str) -> float:
    """Return the steps in which each sample is seen once; infinite if their number is not known."""
    total, trainer = history.meta.get("train_samples"), history.meta.get("trainer") or {}
    if not total:
        return math.inf
    rows = (loss_calls(history)[place]["input_shape"] or [1])[0]
    each = rows * (trainer.get("accumulate_grad_batches") or 1) * (trainer.get("world_size") or 1)
    return float(total / max(1, each))


def planned_steps(history: History, place: str) -> float:
    """Return how many steps are planned, 0 if that is not known."""
    trainer = history.meta.get("trainer") or {}
    steps, epochs = trainer.get("max_steps") or 0, trainer.get("max_epochs") or 0
    by_epochs = epochs * steps_of_pass(history, place) if epochs > 0 else math.inf
    planned = min(steps if steps > 0 else math.inf, by_epochs)
    return planned if planned < math.inf else 0.0


def wins_unseen(history: History, course: Course, place: str, level: float) -> bool:
    """Return whether the loss was surely below `level` in the first pass over the data.

    What is won there is won on samples that were never seen before, so nothing was learned by
    heart.
    """
    end = steps_of_pass(history, place)
    return any(
        one.middle + LUCK * one.error < _WON * level for one in course.levels if one.last < end
    )


def carries_over(history: History, level: float, *, is_known: bool) -> bool | None:
    """Return whether validation says that something was learned; None if it says nothing.

    Something was where the loss is below `level`, that of knowing nothing, and below the first
    one. Nothing was where it has never been either.

    Args:
        is_known: Whether `level` is that of the validation set as well: the variance of its
            targets may be another, and then the first loss alone tells.
    """
    metric = validation_metric(history)
    values = [check.value for check in read_checks(history, metric)] if metric else []
    if len(values) < 2:
        return None
    first, newest = values[0], min(values[-2:])
    if newest < _WON * (min(level, first) if is_known else first):
        return True
    if len(values) < _FEW or first > _OTHER * level:
        return None
    is_level = min(values) >= _WON * max(level, first) if is_known else newest >= first
    return False if is_level else None


def spreads(history: History, place: str, n: int) -> list[float]:
    """Return how far predictions of one step are apart, in each of the newest `n` looks."""
    shares = looks(history, "output/sample_spread", place, n)
    sizes = dict(looks(history, "output/std", place, n))
    return [share * sizes[step] for step, share in shares if step in sizes]


def is_narrow(history: History) -> bool:
    """Return whether a hidden layer has so few units that little can pass it."""
    known = parameters(history)
    return any(known[name]["shape"][0] < _NARROW for name in weights(history)[:-1])
