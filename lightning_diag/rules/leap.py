"""Leaps of the loss, and which of them came out of the blue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from lightning_diag.history import History
from lightning_diag.rules.reading import has_several_optimizers, typical_ratio
from lightning_diag.rules.relations import Relation

BEFORE = 64
"""Steps that a leap is compared with, as `loss/spike_count` does."""
FACTOR = 4.0
"""Times the highest of these, above their median. Our choice: the heavy tail of single samples gave
up to 3 in healthy runs."""
_RISE = 3
"""Steps that a leap takes at most (our choice): a batch that threw the weights off may itself have
had a low loss, and momentum goes on for a step or two."""
_LEVEL = 16
"""Losses behind a level: their median is off by a third of the noise."""
_LEVELS = 64
"""Levels that the course so far is cut into at most (our choice): enough to find the best one."""
_NEAR_BEST = 1.5
"""Times its best level that a calm loss may have just before (our choice): where steps are too
large it had risen to twice that and more."""
LEARNED = 0.7
"""Share of the first loss that a calm one is below: 30 % was won, as in `diverging-loss`."""
_RATE = 1.1
"""Times its earlier value that a learning rate may have reached without having risen (our
choice)."""
_LED_UP = 2
"""Steps before that must lie in the band of the 16 before them, twice as wide (our choice)."""
_LOOKS = 10
"""Looks before in which no step may have been large (our choice)."""
_LARGE = 0.03
"""Update ratio that counts as large, as in `learning-rate-too-high`."""

LEAP = "loss-leap"
"""Kind of the event of a loss that leapt out of the blue."""

AFTER_LEAPS: dict[str, Relation] = {
    "learning-rate-too-high": Relation(
        "loss-spike", "One odd batch threw the weights off, and steps are large since."
    ),
    "exploding-gradient": Relation(
        "loss-spike", "One odd batch threw the weights to where slopes are steep."
    ),
    "loss-oscillation": Relation(
        "loss-spike", "One odd batch threw the weights off, and they swing since."
    ),
    "non-finite": Relation("loss-spike", "One odd batch threw the weights to where numbers end."),
}
"""What a leap out of the blue explains besides, if it was noticed after it."""

NOT_OF_LEAPS = frozenset({*AFTER_LEAPS, "noisy-gradient"})
"""What explains other leaps, and none out of the blue: it would have shown before."""


class Leap(NamedTuple):
    """A loss far above those before it."""

    step: int
    """The first step that lay above them all."""
    loss: float
    """The highest loss of the three steps from there on, infinite if they are not finite."""
    level: float
    """Median of the 64 steps before."""
    highest: float
    """Highest loss of the 64 steps before."""

    def above(self, factor: float) -> float:
        """Return the loss that lies `factor` times as far above the level as the highest."""
        return self.level + factor * (self.highest - self.level)


def leap_at(steps: Sequence[int], losses: Sequence[float], i: int) -> Leap | None:
    """Return the leap that begins at an index, None if the losses before were as high.

    Example:
        >>> leap_at(range(66), [1.0, 2.0] * 32 + [9.0, 5.0], 64)
        Leap(step=64, loss=9.0, level=1.5, highest=2.0)
    """
    # Half of all losses are not above the one before, and need no look at the others.
    if i < BEFORE or not losses[i] > losses[i - 1]:
        return None
    before = losses[i - BEFORE : i]
    if not losses[i] > (highest := max(before)):
        return None
    if not math.isfinite(sum(before)) or losses[i] == math.inf:
        return None
    peak = max(math.inf if math.isnan(value) else value for value in losses[i : i + _RISE])
    return Leap(steps[i], peak, median(before), highest)


def out_of_the_blue(history: History, since: int, upto: int) -> Leap | None:
    """Return the first leap in some steps that nothing in the weights or the steps led up to.

    The loss leaps in one step, from a level near its best, after it had been learning; the two
    losses before were none of a rise, the learning rate has not risen in the 64 steps before, and
    no step of the ten looks before was large. Steps that grow too large show before: the loss
    rises, wave by wave.
    """
    if has_several_optimizers(history):
        return None
    steps, losses = history.series("loss/train")
    for i in range(BEFORE, len(steps)):
        if not since <= steps[i] <= upto or steps[i] - steps[i - BEFORE] != BEFORE:
            continue
        leap = leap_at(steps, losses, i)
        if leap is None or not losses[i] > leap.above(FACTOR):
            continue
        calm = _is_calm(losses[:i]) and not _has_risen(history, leap.step)
        return leap if calm and not _was_large(history, leap.step) else None
    return None


def _is_calm(losses: Sequence[float]) -> bool:
    """Return whether a loss has learned and is about as low as it ever was."""
    width = max(_LEVEL, len(losses) // _LEVELS)
    starts = range(len(losses) % width, len(losses), width)
    best = min(median(losses[start : start + width]) for start in starts)
    newest = median(losses[-_LEVEL:])
    band = losses[-_LEVEL - _LED_UP : -_LED_UP]
    rises = max(losses[-_LED_UP:]) > newest + 2 * (max(band) - newest)
    return newest <= min(LEARNED * losses[0], _NEAR_BEST * best) and not rises


def _has_risen(history: History, step: int) -> bool:
    """Return whether a learning rate is above what it was 64 steps before, or that is not known."""
    for group in history.places("lr/value"):
        seen = list(zip(*history.series("lr/value", group), strict=True))
        early = [rate for at, rate in seen if at <= step - BEFORE]
        late = [rate for at, rate in seen if step - BEFORE < at <= step]
        if not early or max(late, default=0.0) > _RATE * early[-1]:
            return True
    return not history.places("lr/value")


def _was_large(history: History, step: int) -> bool:
    """Return whether a step of the newest looks before was large."""
    if not history.last("update/ratio"):
        return False
    ratio = typical_ratio(history)
    before = [value for at, value in zip(*ratio, strict=True) if at < step]
    return max(before[-_LOOKS:], default=0.0) >= _LARGE


def samples_behind(history: History) -> int:
    """Return how many samples one loss is the mean of, 0 where that is not known."""
    losses: dict[str, dict[str, Any]] = history.meta.get("losses") or {}
    trainer: dict[str, Any] = history.meta.get("trainer") or {}
    rows = [known["input_shape"][0] for known in losses.values() if known.get("input_shape")]
    batches = (trainer.get("accumulate_grad_batches") or 1) * (trainer.get("world_size") or 1)
    return int(min(rows, default=0) * batches)


def ends_epoch(history: History, step: int) -> bool:
    """Return whether a step may have had the few samples that were left at the end of an epoch."""
    samples, each = history.meta.get("train_samples") or 0, samples_behind(history)
    if not samples or not each:
        return True
    return samples % each > 0 and (step + 1) % math.ceil(samples / each) == 0
