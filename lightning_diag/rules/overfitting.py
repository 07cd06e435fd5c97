"""`Overfitting`: what training wins and validation does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.checks import (
    Check,
    better_metrics,
    is_accuracy,
    metric_modes,
    outnumbering,
    read_checks,
    validation_metric,
)
from lightning_diag.rules.course import Course, chance_level, has_classes, once, read_course
from lightning_diag.rules.reading import shown

_NEWEST = 3
"""Validations that must agree (our choice): one or two may be off by chance."""
_LOOKS = 8
"""Newest looks at the accuracy of training (our choice): some hundred samples."""
_LATE = 0.1
"""Share of what training won by which its loss may lie above its best: then it still fits."""

_STEADY = 0.05
"""Share of the best validation loss that it must have risen by in any case (our choice): where
fine-tuning had next to nothing to win, a share of that is next to nothing."""
_CLEAR = 0.3
"""Share of the best validation loss that a rise must have where it gave back half of `rise` only
(our choice): where validation went low, a tenth of all that it won is more than its loss."""
_BY_HEART = 0.05
"""Share of its first value below which a training loss is that of samples learned by heart (our
choice), in a model with more weights than there are samples: such a model can (Zhang et al.)."""
_KNOWN = 2 / 3
"""Times `gap` of samples learned by heart that are worth a note (our choice)."""
_UNKNOWN = 1.5
"""Times `gap` where the loss is not known to be that of classes: squared errors of a few hundred
samples differ from set to set, a healthy regression by 36 % of what it had won (our choice)."""


class _Found(NamedTuple):
    severity: Severity
    text: str
    value: float
    limit: float
    first: int


@dataclass(frozen=True)
class Overfitting(Rule):
    """A training loss that falls while the validation loss does not follow, or rises again.

    What it sees:
        Two shapes, both measured in shares of what training won, the first loss less the present
        one, so that no unit matters. *U*: the newest three validation losses all lie above the
        best (a median of three) by `rise` of what validation had won, or by half of that and
        three tenths of the best, while the training loss went on falling. *Gap*: in the newest
        three validations `gap` of what training won did
        not carry over to validation, and at the first validation not half as much, so that it
        opened while training went on. Where the training loss is next to nothing, and the model
        has more weights than there are samples, the gap counts from the first validation on: such
        a model may know all samples by heart before it is validated at all. Two thirds of `gap`
        are worth a `note` then, and so is any gap with an accuracy that is up to `wrong` below
        that of training.
        Silent while the training loss is above its best, as after
        an accident, and where the validation loss was high from the first validation: that is
        data treated differently. A U without a gap is a `note` where a logged metric is as good
        as it was at the best loss: then the model is only too sure of itself.

    Why it matters:
        From there on training makes the model worse at what it has not seen. A training loss of
        zero shows no U, only the gap (W11).

    What to do:
        Stop at the best validation loss, and keep its weights; get more data or augment it; add
        dropout or weight decay; use a smaller model.

    References:
        Goodfellow et al., Deep Learning, 2016, section 7.8 (early stopping).
        Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599 (the loss
        rises while the accuracy does not fall).
        Zhang et al., Understanding Deep Learning Requires Rethinking Generalization, 2017,
        arXiv:1611.03530 (any labels are fitted where weights outnumber samples).
    """

    code: ClassVar[str] = "overfitting"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = ("output/accuracy", "target/std")

    rise: float = 0.1
    """Share of what validation had won that it must have lost again, 0 to 1. Our choice: healthy
    runs gave back up to 3 %."""
    gap: float = 0.3
    """Share of what training won that does not carry over, 0 to 1. Our choice: up to 16 % in
    healthy runs, up to 29 % where labels are noisy but few are learned by heart, 35 % and more in
    most with too few samples."""
    learnt: float = 0.2
    """Share of its first value that the training loss must have won, 0 to 1. Our choice: where
    nothing was learned, nothing can fail to carry over."""
    wrong: float = 0.1
    """Accuracy that is missing in validation, 0 to 1, up to which a gap is one of the loss alone: a
    few samples that the model is too sure of. Our choice; SageMaker's 10 %."""
    validations: int = 5
    """Validations before it is judged, at least 4. Our choice: a best, a trend and three to
    confirm it."""

    def __post_init__(self) -> None:
        self._require("rise", "gap", "learnt", "wrong", least=0.0, most=1.0)
        self._require("validations", least=_NEWEST + 1, unit="validations")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        metric = validation_metric(history)
        if metric is None:
            return self.not_observed("no validation loss was logged")
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        checks = read_checks(history, metric)
        if len(checks) < self.validations:
            return self.not_observed(f"there were fewer than {self.validations} validations")
        stamp = (self, course.last, checks[-1])
        return once(history, self.code, stamp, lambda: self._judge(history, course, checks))

    def _judge(self, history: History, course: Course, checks: Sequence[Check]) -> list[Finding]:
        newest = checks[-_NEWEST:]
        train = median(check.train for check in newest)
        least = min(check.train for check in checks)
        start = _reference(history, course)
        won = start - least
        if not won > self.learnt * abs(start) or train - least > _LATE * won:
            return []
        found = self._u(history, course, checks, won)
        if (found is None or found.severity == "note") and _is_comparable(history, course, checks):
            by_heart = train <= _BY_HEART * abs(start) and _can_know_by_heart(history)
            limit = self.gap * (_KNOWN if by_heart else 1 if has_classes(history) else _UNKNOWN)
            right = 0 <= self._missing(history) <= self.wrong
            gap = self._gap(start, checks, limit, from_first=by_heart, is_as_right=right)
            found = found if gap is None or (found and gap.severity == "note") else gap
        if found is None:
            return []
        return [
            Finding(
                code=self.code,
                severity=found.severity,
                message=found.text,
                remedy=(
                    "Stop at the best validation loss, and keep its weights, with "
                    "`lightning_diag.EarlyStoppingWindow(restore_best=True)`; get or augment data, "
                    "add `torch.nn.Dropout` or weight decay, or use a smaller model."
                ),
                places=(),
                steps=(found.first, checks[-1].step),
                evidence=Evidence(
                    found.value, found.limit, checks[-1].step - found.first + 1, _NEWEST
                ),
            )
        ]

    def _u(
        self, history: History, course: Course, checks: Sequence[Check], learnt: float
    ) -> _Found | None:
        values = [check.value for check in checks]
        smooth = [median(values[i : i + 3]) for i in range(len(values) - 2)]
        place = min(range(len(smooth)), key=smooth.__getitem__)
        best, last = checks[place + 1], checks[-1]
        won = max(values[0], course.start if course.from_start else values[0]) - smooth[place]
        # A validation loss that was never below the start has won nothing that it could lose.
        won = won if won > 0 else learnt
        least = max(0.5 * self.rise * won, _CLEAR * abs(smooth[place]))
        limit = smooth[place] + max(min(self.rise * won, least), _STEADY * abs(smooth[place]))
        low = min(values[-_NEWEST:])
        if not low > limit or place + 2 >= len(checks) - _NEWEST + 1:
            return None
        if not last.train < best.train:
            return None
        holding = better_metrics(history, best.step)
        metric = f" `{holding[0]}` is as good as it was there, so far." if holding else ""
        return _Found(
            "note" if holding else "suspect",
            f"The validation loss rose from {shown(smooth[place])} about step {best.step:,} to "
            f"{shown(last.value)} (the newest {_NEWEST} validations are above {shown(low)}, "
            f"threshold {shown(limit)}), while the training loss fell from {shown(best.train)} to "
            f"{shown(last.train)}.{metric}",
            low,
            limit,
            best.step,
        )

    def _missing(self, history: History) -> float:
        """Return the accuracy that validation lacks against training, -1 where it is not known."""
        looks = [v for _, seen in history.window("output/accuracy", _LOOKS) for v in seen.values()]
        for metric in metric_modes(history) if looks and has_classes(history) else ():
            if is_accuracy(metric):
                values = history.series(metric).values[-_NEWEST:]
                return max(0.0, fmean(looks) - median(values)) if values else -1.0
        return -1.0

    def _gap(
        self,
        start: float,
        checks: Sequence[Check],
        limit: float,
        *,
        from_first: bool,
        is_as_right: bool,
    ) -> _Found | None:
        shares = [_gap_share(start, check) for check in checks]
        least = min(shares[-_NEWEST:])
        if not least > limit or not (from_first or shares[0] < 0.5 * least):
            return None
        last = checks[-1]
        severity: Severity = "suspect" if least > self.gap and not is_as_right else "note"
        first = next(c.step for c, share in zip(checks, shares, strict=True) if share > limit)
        return _Found(
            severity,
            f"The training loss fell from about {shown(start)} to {shown(last.train)}, the "
            f"validation loss only to {shown(last.value)}: in the newest {_NEWEST} validations "
            f"at least {least:.0%} of what training won did not carry over (threshold "
            f"{limit:.0%}).",
            least,
            limit,
            first,
        )


def _reference(history: History, course: Course) -> float:
    """Return where training began: the first loss, or the chance level if that is lower.

    A bad initialisation, or a first batch of odd samples, is not what training won.
    """
    chance = chance_level(history, course)
    return course.start if chance is None else min(course.start, chance)


def _gap_share(start: float, check: Check) -> float:
    """Return the share of what training had won that did not carry over to a validation."""
    won = start - check.train
    return (check.value - check.train) / won if won > 0 else 0.0


def _can_know_by_heart(history: History) -> bool:
    """Return whether the model has more trained weights than there are targets, as far as known."""
    size, targets = outnumbering(history)
    return 0 < targets < size


def _is_comparable(history: History, course: Course, checks: Sequence[Check]) -> bool:
    """Return whether training and validation loss are in one unit, and validation has learnt."""
    losses: dict[str, dict[str, Any]] = history.meta.get("losses") or {}
    if any(known.get("reduction") == "sum" for known in losses.values()):
        return False
    if not course.from_start:
        return False
    first, best = checks[0].value, min(check.value for check in checks)
    span = course.start - min(check.train for check in checks)
    return abs(first - course.start) <= 1.25 * span and best < course.start
