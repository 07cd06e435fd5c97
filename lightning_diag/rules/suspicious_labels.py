"""`SuspiciousLabels`: a network that trains as it should, on targets it finds nothing in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.calls import (
    CLASSIFIES,
    REGRESSION,
    looks,
    loss_calls,
    pooled,
    the_loss,
)
from lightning_diag.rules.chance import (
    LUCK,
    carries_over,
    entropy,
    has_halved,
    is_narrow,
    planned_steps,
    spreads,
    steps_of_pass,
    wins_unseen,
)
from lightning_diag.rules.course import Course, read_course
from lightning_diag.rules.reading import (
    centre,
    loss_of_weights,
    shown,
    travel,
    typical_ratio,
)
from lightning_diag.rules.unscaled_target import UnscaledTarget

_PLAIN = ("", "log_softmax")
_WINDOW = 32
_LOOKS = 8
_POOLED = 64
"""Looks whose targets are counted: of a few dozen targets some classes are missing."""
_ENDLESS = 10
"""Times `patience` after which data need not have been seen twice."""


class _Chance(NamedTuple):
    now: float
    chance: float
    level: float
    """The same, as a loss."""
    text: str
    """What is compared, as a part of a sentence."""


@dataclass(frozen=True)
class SuspiciousLabels(Rule):
    """Targets in which a network finds nothing, though it trains as it should.

    What it sees:
        After `patience` steps, `share` of those planned if that is known, and `passes` over the
        data nothing was learned that is more than learned by heart. Compared is the loss of always
        answering with the frequencies of the classes (or with the mean of the targets). In the
        first pass over the data no level of the loss was surely below that, and the validation
        loss has neither been below it nor below its own first value. Where there are fewer than
        three validations, no level at all has been below `chance` of it, and the loss no longer
        falls.
        And nothing explains that: the typical weight moves by a healthy share in each step,
        `travel` times its own size in all, the first weights get gradients, no hidden layer has
        fewer than four units, predictions depend on the input, and the loss fits the output. It
        is a diagnosis by exclusion: silent as long as something is found that would explain it,
        and a `note` once such a thing is found later. It cannot tell a task that is too hard from
        wrong labels.

    Why it matters:
        Labels that were shuffled, shifted by a row or joined on the wrong key look healthy in
        every other number.

    What to do:
        Look at a few dozen samples with their labels, after all loading and augmentation; then
        train on twenty of them, which any network must learn by heart. Where only some labels are
        wrong the loss falls, and this is silent: `WorstExamples(trends=True)` lists the samples
        whose labels the network contradicts (docs/hard-examples/worst-examples.md).

    References:
        Zhang et al., Understanding deep learning requires rethinking generalization, 2017,
        arXiv:1611.03530 (random labels are learned, but slowly).
        CS231n course notes, Neural Networks Part 3: overfit a tiny subset (C3).
    """

    code: ClassVar[str] = "suspicious-labels"
    needs: ClassVar[tuple[str, ...]] = ("output/loss", "loss/train", "update/ratio")
    uses: ClassVar[tuple[str, ...]] = (
        "class/target_count",
        "gradient/depth_ratio",
        "output/sample_spread",
        "output/std",
        "target/std",
        "target/unexplained_ratio",
        "update/norm",
    )

    chance: float = 0.97
    """Loss over that of a constant answer from which on nothing was learned, 0 to 1, where no
    validation tells. Our choice: random labels of a thousand samples are at 0.97 to 1 after the
    first passes, before any are learned by heart, and true ones may be hard to foretell."""
    by_heart: float = 0.8
    """The same where validation says that nothing carries over, at most `chance`. Our choice: what
    is learned by heart faster than that is for `overfitting` to say."""
    above: float = 1.25
    """Loss over that of a constant answer from which on something else is wrong, at least 1. Our
    choice: a learning rate that is too large leaves the loss well above chance."""
    patience: int = 200
    """Steps before anything is said, at least 32. Our choice: healthy runs have left chance."""
    share: float = 0.3
    """The same as a share of the steps planned, 0 to 1, as in `loss-plateau`."""
    passes: float = 1.0
    """Times that the training set must have been gone through, 0 or more. Our choice: in the first
    pass every batch is new, and large data sets take long to leave chance. Ten times `patience`
    will do as well, for data that are too many to be seen twice."""
    still: float = 0.03
    """Share of the loss that it may have fallen by in the newest half of the run, 0 to 1. Our
    choice: labels that are learned by heart fall more slowly at first, and what falls faster
    learns. Half as much again as in `loss-plateau`, since more than the loss speaks here."""
    travel: float = 0.3
    """Times their own size that weights must have moved, 0 or more. Our choice: less may be too
    little to learn by."""
    ratio: float = 0.03
    """Update ratio above which steps are too large, 0 or more, as in `learning-rate-too-high`."""
    spread: float = 0.025
    """Spread of scores over samples that shows that the input counts, 0 or more; of a regression
    over the spread of the targets. Our choice: on a plateau before learning it is smaller."""

    def __post_init__(self) -> None:
        self._require("chance", "by_heart", "share", "still", least=0.0, most=1.0)
        self._require_order("by_heart", "chance")
        self._require("above", least=1.0)
        self._require("patience", least=32, unit="steps")
        self._require("passes", "travel", "ratio", "spread", least=0.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if history.steps[-1] < self.patience:
            return self.not_observed(f"fewer than {self.patience} steps were taken")
        return [] if has_halved(history) else self._judge(history)

    def _judge(self, history: History) -> list[Finding] | NotObserved:
        loss, course, place = loss_of_weights(history), read_course(history), the_loss(history)
        if isinstance(loss, str) or isinstance(course, str):
            return self.not_observed(loss if isinstance(loss, str) else f"{course}")
        if place is None or not loss.from_start:
            return self.not_observed("the first training loss is not that of one loss function")
        if not self._is_ripe(history, place):
            return self.not_observed("too few of the steps planned, or of the data, are over yet")
        found = self._at_chance(history, place)
        limit = self._limit(history, course, place, found) if found else None
        if found is None or limit is None or not self._is_active(history, place):
            return []
        # What was surely learned by heart shows that weights have moved far enough.
        by_heart = course.now.middle + LUCK * course.now.error < found.level
        is_known = by_heart and limit == self.by_heart
        is_healthy = self._moves(history, 0.0 if is_known else self.travel)
        return [self._found(place, found, loss.steps, limit)] if is_healthy else []

    def _is_ripe(self, history: History, place: str) -> bool:
        """Return whether the data have been seen often enough, or enough of them."""
        steps, once = history.steps[-1] + 1, steps_of_pass(history, place)
        if steps < self.share * planned_steps(history, place):
            return False
        return steps >= min(self.passes * once, _ENDLESS * self.patience)

    def _limit(self, history: History, course: Course, place: str, found: _Chance) -> float | None:
        """Return the share of chance that the loss is not below, None where it learns or may."""
        if is_narrow(history) or wins_unseen(history, course, place, found.level):
            return None
        carries = carries_over(history, found.level, is_known=found.level == found.chance)
        if carries is not None:
            return None if carries else self.by_heart
        if found.now < self.chance * found.chance:
            return None
        # The lowest of many levels is lower than the others by chance alone.
        has_won = course.best.middle + LUCK * course.best.error < self.chance * found.level
        is_flat = course.is_flat(0.5, self.still * abs(course.now.middle))
        return self.chance if is_flat and not has_won else None

    def _at_chance(self, history: History, place: str) -> _Chance | None:
        call = loss_calls(history)[place]
        if call["activation"] not in _PLAIN or call["broadcast"] or call["weighted"]:
            return None
        now = centre(values[""] for _, values in history.window("loss/train", _WINDOW))
        if call["function"] in REGRESSION:
            if UnscaledTarget().off(history, place) is not None:
                return None  # it is still on its way to the offset and the scale
            seen = looks(history, "target/unexplained_ratio", place, _WINDOW)
            ratio = centre(value for _, value in seen)
            text = "share of variance that is not explained"
            # It has no course of its own, but goes as the loss does.
            found = _Chance(ratio, 1.0, now / ratio if ratio > 0 else math.inf, text)
        elif call["function"] in CLASSIFIES or call["classes"] == 2:
            counts = pooled(history, "class/target_count", place, _POOLED)
            if call["function"] == "multi_margin_loss" or call["reduction"] != "mean":
                return None
            chance = entropy(counts)
            found = _Chance(now, chance, chance, "loss")
        else:
            return None
        if not 0 < found.chance < math.inf:
            return None
        return found if self.by_heart <= found.now / found.chance <= self.above else None

    def _is_active(self, history: History, place: str) -> bool:
        """Return whether predictions depend on the input."""
        least = self.spread
        if loss_calls(history)[place]["function"] in REGRESSION:
            least *= history.last("target/std").get(place, math.inf)
        seen = spreads(history, place, _LOOKS)
        return bool(seen) and centre(seen) >= least

    def _moves(self, history: History, least: float) -> bool:
        """Return whether weights move as they should, the first as the last."""
        depth = history.last("gradient/depth_ratio").get("", 1.0)
        if not 1e-3 < depth < 1e3:
            return False
        ratio = typical_ratio(history)
        late = ratio.values[len(ratio.values) // 2 :]
        return centre(late) <= self.ratio and travel(ratio, 0.0) >= least

    def _found(self, place: str, found: _Chance, steps: int, limit: float) -> Finding:
        told = "" if limit == self.chance else ", and validation has never been better than that"
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"After {steps:,} steps the {found.text} is {shown(found.now)}, where a constant "
                f"answer has {shown(found.chance)} (threshold {limit:.0%} of it){told}, though "
                "weights move, gradients arrive and predictions depend on the input: the targets "
                "may have nothing to do with the inputs."
            ),
            remedy=(
                "Look at a few dozen samples with their labels as the network gets them, then "
                "train on twenty of them with `Trainer(overfit_batches=1)`: if these are learned "
                "by heart, the labels or the task are to blame. Once a network learns, "
                "`lightning_diag.WorstExamples(trends=True)` lists labels that are suspicious."
            ),
            places=(place,),
            steps=(max(0, steps - _WINDOW + 1), steps),
            evidence=Evidence(found.now, limit * found.chance, _WINDOW, _LOOKS),
        )
