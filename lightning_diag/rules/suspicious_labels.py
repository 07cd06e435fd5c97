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
    first_look,
    looks,
    loss_calls,
    pooled,
    the_loss,
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
_LUCK = 3.0
"""Standard errors that the lowest of a few dozen levels is below the others (our choice)."""
_ENDLESS = 10
"""Times `patience` after which data need not have been seen twice."""


class _Chance(NamedTuple):
    now: float
    chance: float
    text: str
    """What is compared, as a part of a sentence."""


@dataclass(frozen=True)
class SuspiciousLabels(Rule):
    """Targets in which a network finds nothing, though it trains as it should.

    What it sees:
        After `patience` steps, `share` of those planned if that is known, and `passes` over the
        data no level of the loss has been below `chance` of that of always answering with the
        frequencies of the classes (or with the mean of the targets), it no longer falls, and
        nothing explains that: the typical weight moves by a healthy share in each step, `travel`
        times its own size in all, the first weights get gradients, predictions depend on the
        input, and the loss fits the output. It is a diagnosis by exclusion: silent as long as
        something is found that would explain it, and a `note` once such a thing is found later. It
        cannot tell a task that is too hard from wrong labels.

    Why it matters:
        Labels that were shuffled, shifted by a row or joined on the wrong key look healthy in
        every other number.

    What to do:
        Look at a few dozen samples with their labels, after all loading and augmentation; then
        train on twenty of them, which any network must learn by heart.

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

    chance: float = 0.95
    """Loss over that of a constant answer from which on nothing was learned, 0 to 1. Our choice:
    below it `underfitting` speaks; random labels of a thousand samples are at 0.97 to 1 after the
    first passes, before any are learned by heart."""
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
        self._require("chance", "share", "still", least=0.0, most=1.0)
        self._require("above", least=1.0)
        self._require("patience", least=32, unit="steps")
        self._require("passes", "travel", "ratio", "spread", least=0.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if history.steps[-1] < self.patience:
            return self.not_observed(f"fewer than {self.patience} steps were taken")
        return [] if self._is_learned(history) else self._judge(history)

    def _judge(self, history: History) -> list[Finding] | NotObserved:
        loss, course, place = loss_of_weights(history), read_course(history), the_loss(history)
        if isinstance(loss, str) or isinstance(course, str):
            return self.not_observed(loss if isinstance(loss, str) else f"{course}")
        if place is None or not loss.from_start:
            return self.not_observed("the first training loss is not that of one loss function")
        if not self._is_ripe(history, place):
            return self.not_observed("too few of the steps planned, or of the data, are over yet")
        found = self._at_chance(history, place)
        if found is None or not self._stands(course, found):
            return []
        is_healthy = self._is_active(history, place) and self._moves(history)
        return [self._found(place, found, loss.steps)] if is_healthy else []

    def _is_ripe(self, history: History, place: str) -> bool:
        """Return whether the data have been seen often enough, or enough of them."""
        steps, total = history.steps[-1] + 1, history.meta.get("train_samples")
        trainer = history.meta.get("trainer") or {}
        if steps < self.share * (trainer.get("max_steps") or 0):
            return False
        if not total or steps >= _ENDLESS * self.patience:
            return steps >= _ENDLESS * self.patience
        rows = (loss_calls(history)[place]["input_shape"] or [1])[0]
        each = rows * (trainer.get("accumulate_grad_batches") or 1)
        return bool(steps * each * (trainer.get("world_size") or 1) >= self.passes * total)

    def _stands(self, course: Course, found: _Chance) -> bool:
        """Return whether the loss has never been lower, and does not fall."""
        # A share that is not explained has no course of its own, but goes as the loss does.
        now, best = course.now.middle, course.best
        least = self.chance * found.chance * now / found.now
        # The lowest of many levels is lower than the others by chance alone.
        has_won = best.middle + _LUCK * best.error < least
        return not has_won and course.is_flat(0.5, self.still * abs(now))

    def _is_learned(self, history: History) -> bool:
        """Return at once whether a look says so."""
        newest = history.last("output/loss")
        return any(
            value < 0.5 * first_look(history, "output/loss", place)
            for place, value in newest.items()
        )

    def _at_chance(self, history: History, place: str) -> _Chance | None:
        call = loss_calls(history)[place]
        if call["activation"] not in _PLAIN or call["broadcast"] or call["weighted"]:
            return None
        now = centre(values[""] for _, values in history.window("loss/train", _WINDOW))
        if call["function"] in REGRESSION:
            if UnscaledTarget().off(history, place) is not None:
                return None  # it is still on its way to the offset and the scale
            seen = looks(history, "target/unexplained_ratio", place, _LOOKS)
            found = _Chance(
                centre(value for _, value in seen), 1.0, "share of variance that is not explained"
            )
        elif call["function"] in CLASSIFIES or call["classes"] == 2:
            counts = pooled(history, "class/target_count", place, _POOLED)
            if call["function"] == "multi_margin_loss" or call["reduction"] != "mean":
                return None
            found = _Chance(now, entropy(counts), "loss")
        else:
            return None
        if not 0 < found.chance < math.inf:
            return None
        return found if self.chance <= found.now / found.chance <= self.above else None

    def _is_active(self, history: History, place: str) -> bool:
        """Return whether predictions depend on the input."""
        shares = looks(history, "output/sample_spread", place, _LOOKS)
        sizes = dict(looks(history, "output/std", place, _LOOKS))
        spreads = [share * sizes[step] for step, share in shares if step in sizes]
        if not spreads:
            return False
        least = self.spread
        if loss_calls(history)[place]["function"] in REGRESSION:
            least *= history.last("target/std").get(place, math.inf)
        return centre(spreads) >= least

    def _moves(self, history: History) -> bool:
        """Return whether weights move as they should, the first as the last."""
        depth = history.last("gradient/depth_ratio").get("", 1.0)
        if not 1e-3 < depth < 1e3:
            return False
        ratio = typical_ratio(history)
        late = ratio.values[len(ratio.values) // 2 :]
        return centre(late) <= self.ratio and travel(ratio, 0.0) >= self.travel

    def _found(self, place: str, found: _Chance, steps: int) -> Finding:
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"After {steps:,} steps the {found.text} is {shown(found.now)}, as good as a "
                f"constant answer ({shown(found.chance)}; threshold {self.chance:.0%} of it), "
                "though weights move, gradients arrive and predictions depend on the input: the "
                "targets may have nothing to do with the inputs."
            ),
            remedy=(
                "Look at a few dozen samples with their labels as the network gets them, then "
                "train on twenty of them with `Trainer(overfit_batches=1)`: if these are learned "
                "by heart, the labels or the task are to blame."
            ),
            places=(place,),
            steps=(max(0, steps - _WINDOW + 1), steps),
            evidence=Evidence(found.now, self.chance * found.chance, _WINDOW, _LOOKS),
        )


def entropy(counts: list[float]) -> float:
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
