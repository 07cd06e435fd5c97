"""`ClassImbalance`: classes so rare that the network leaves them out."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.by_class import Seen, column_sums, read_counts
from lightning_diag.rules.calls import loss_calls, the_loss
from lightning_diag.rules.chance import entropy, planned_steps
from lightning_diag.rules.course import read_course
from lightning_diag.rules.reading import has_several_optimizers

_SHOWN = 8
_REMEDY = (
    "Give the loss weights by class, as `lightning_diag.class_balanced_weights` computes them, or "
    "take `lightning_diag.FocalLoss(weight=...)` with these; or sample rare classes more often "
    "with `torch.utils.data.WeightedRandomSampler`; or train on as many hard samples of each class "
    "with `lightning_diag.OHEMLoss(ratio=1)`. Judge by the recall of each class."
)


@dataclass(frozen=True)
class ClassImbalance(Rule):
    """Classes that are so rare, and so rarely predicted, that the network does without them.

    What it sees:
        Targets, predictions and hits by class, over the newest looks after step `patience`, and
        after `share` of the steps planned if that is known. Imbalance alone is no finding, since
        networks often learn it: a class must be `ratio` times rarer than the most frequent one,
        have had `targets` targets, and fewer than `recall` of them recognised, in the newest of
        these looks as in all; or all such classes together. Of the other classes `common` must be
        recognised, and where `several` of the missed targets come in each look, the loss must no
        longer fall. The message says which are never predicted.
        It is a note where the loss is still `vague` of that of answering with the frequencies:
        then the inputs may not tell more. Where the rarest is `extreme` times rarer and has had
        too few targets to tell, that is a note; so is a loss that knows several classes and has
        seen targets of one, `extreme` of them or more.

    Why it matters:
        A loss that is a mean over samples is small for a network that always answers with the
        frequent class, and accuracy looks good. Rare classes are often those that matter.

    What to do:
        Weigh or sample by class frequency, and look at recall by class rather than at accuracy.
        On digits that were made imbalanced, weights and adjusted logits helped most, OHEM some, and
        what only turns to hard samples (`FocalLoss` without weights, `OHEMSampling`) did not; see
        docs/hard-examples/imbalance.md. With adjusted logits (`LogitAdjustedLoss`) this finding
        stays, since it sees the adjusted ones: judge by the recall of the plain ones.

    References:
        SageMaker Debugger, rule ClassImbalance (ratio 10, a class mispredicted in 70 %).
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019,
        arXiv:1901.05555.
        Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002.
    """

    code: ClassVar[str] = "class-imbalance"
    needs: ClassVar[tuple[str, ...]] = ("class/imbalance",)
    uses: ClassVar[tuple[str, ...]] = (
        "class/correct_count",
        "class/majority_share",
        "class/predicted_count",
        "class/target_count",
    )

    ratio: float = 10.0
    """Times that the most frequent class must be as frequent as another, at least 1, as in
    SageMaker Debugger."""
    extreme: float = 80.0
    """The same for a note without any recall, at least `ratio`. Our choice: runs that learned
    classes up to 40 times rarer showed at most 76, by chance."""
    recall: float = 0.3
    """Share of the targets of a rare class that must be recognised, 0 to 1. SageMaker Debugger
    alarms at 70 % of a class mispredicted."""
    targets: int = 4
    """Targets of a rare class that its recall must rest on, at least 1. Our choice: of four, all
    are missed once in 256 times if three in four are recognised."""
    common: float = 0.6
    """Share of the targets of all other classes that must be recognised, 0 to 1. Our choice: where
    frequent classes are mostly missed, that rare ones are is not for their being rare."""
    several: float = 8.0
    """Targets of rare classes in a look from which on no step is without them, 0 or more (our
    choice): then they come, only later, and count when the loss no longer falls."""
    vague: float = 0.7
    """Share of the loss of answering with the frequencies, 0 to 1, above which inputs tell little
    of the class. Our choice: classes that can be told apart, but for rare ones, cost half."""
    still: float = 0.1
    """Share of the loss that it may fall by in the newest half of the run to count as standing, 0
    to 1 (our choice)."""
    patience: int = 120
    """Steps before recall counts, at least 0. Our choice: networks learn frequent classes first,
    and in healthy runs the rare ones had come by then."""
    share: float = 0.3
    """The same as a share of the steps planned, 0 to 1, as in `loss-plateau`."""
    window: int = 64
    """Looks that are counted, at least 1. Our choice: a thousand steps or more."""

    def __post_init__(self) -> None:
        self._require("ratio", least=1.0)
        self._require("extreme", least=1.0)
        self._require_order("ratio", "extreme")
        self._require("recall", "common", "vague", "still", "share", least=0.0, most=1.0)
        self._require("several", least=0.0)
        self._require("targets", least=1)
        self._require("patience", least=0, unit="steps")
        self._require("window", least=1, unit="look")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        for place, imbalance in history.last("class/imbalance").items():
            if imbalance == 1.0 and (alone := self._alone(history, place)):
                return [alone]
            if imbalance < self.ratio or history.steps[-1] <= self.patience:
                continue
            if history.steps[-1] < self.share * planned_steps(history, place):
                continue
            seen = read_counts(history, place, self.window, self.patience)
            rare = [
                i for i, n in enumerate(seen.targets) if 0 < n <= max(seen.targets) / self.ratio
            ]
            missed = [i for i in rare if self._is_missed(seen, [i])]
            if not missed and self._is_missed(seen, rare):
                missed = rare
            if missed and self._counts(history, seen, rare, missed):
                return [self._found(place, seen, missed, self._weight(history, place, seen))]
            if imbalance >= self.extreme and sum(seen.targets[i] for i in rare) < self.targets:
                return [self._noted(history, place, imbalance)]
        return []

    def _alone(self, history: History, place: str) -> Finding | None:
        """Say that there has been one class alone, if that is so and no accident."""
        share = history.last("class/majority_share").get(place, 0.0)
        if share < 1.0 or has_several_optimizers(history) or history.steps[-1] <= self.patience:
            return None
        counts = [row for _, row in history.lists("class/target_count", place, self.window)]
        sums = column_sums([row for row in counts if len(row) == len(counts[-1])])
        number = max(sums, default=0.0)
        if number < self.extreme or number < sum(sums) or len(sums) < 2:
            return None
        last = history.steps[-1]
        return Finding(
            code=self.code,
            severity="note",
            message=(
                f"At `{place}` all of the {number:,.0f} targets that were looked at up to step "
                f"{last:,} are of class {sums.index(number)} of {len(sums)} (threshold "
                f"{self.extreme:g} targets): the others are rarer than that, or missing."
            ),
            remedy=_REMEDY,
            places=(place,),
            steps=(history.steps[0], last),
            evidence=Evidence(number, self.extreme, last + 1, len(counts)),
        )

    def _is_missed(self, seen: Seen, classes: list[int]) -> bool:
        """Return whether some classes are not recognised: over all looks, nor in the newest."""
        number = sum(seen.targets[i] for i in classes)
        if number < self.targets:
            return False
        if sum(seen.hits[i] for i in classes) >= self.recall * number:
            return False
        newest = hits = 0.0
        for targets, correct in zip(reversed(seen.each), reversed(seen.each_hit), strict=True):
            newest += sum(targets[i] for i in classes)
            hits += sum(correct[i] for i in classes)
            if newest >= self.targets:
                break
        return hits < self.recall * newest

    def _counts(self, history: History, seen: Seen, rare: list[int], missed: list[int]) -> bool:
        """Return whether it is for being rare that classes are missed, and no matter of time."""
        others = [i for i in range(len(seen.targets)) if i not in rare]
        number = sum(seen.targets[i] for i in others)
        if sum(seen.hits[i] for i in others) < self.common * number:
            return False
        each = sum(seen.targets[i] for i in missed) / len(seen.steps)
        return each < self.several or self._stands(history)

    def _stands(self, history: History) -> bool:
        """Return whether the loss hardly falls in the newest half of the run."""
        course = read_course(history)
        if isinstance(course, str):
            return True
        levels = [level.middle for level in course.newest(0.5)]
        half = max(1, len(levels) // 2)
        return median(levels[-half:]) >= (1 - self.still) * median(levels[:half])

    def _weight(self, history: History, place: str, seen: Seen) -> Severity:
        """Return how bad it is: where inputs tell little, frequencies are the best answer."""
        course, call = read_course(history), loss_calls(history)[place]
        is_plain = call["reduction"] == "mean" and not call["weighted"]
        if isinstance(course, str) or not is_plain or the_loss(history) != place:
            return "suspect"
        # For losses of yes or no, counts are of all elements, as the loss is.
        share = median(level.middle for level in course.newest(0.5)) / entropy(seen.targets)
        return "note" if self.vague <= share <= 1 / self.vague else "suspect"

    def _noted(self, history: History, place: str, imbalance: float) -> Finding:
        last = history.steps[-1]
        return Finding(
            code=self.code,
            severity="note",
            message=(
                f"At `{place}` the most frequent class is {imbalance:,.0f} times as frequent as "
                f"the rarest (threshold {self.extreme:g}); too few targets of rare classes were "
                f"seen up to step {last:,} to say whether they are learned."
            ),
            remedy=_REMEDY,
            places=(place,),
            steps=(history.steps[0], last),
            evidence=Evidence(imbalance, self.extreme, last + 1, 1),
        )

    def _found(self, place: str, seen: Seen, missed: list[int], severity: Severity) -> Finding:
        targets = sum(seen.targets[i] for i in missed)
        share = sum(seen.hits[i] for i in missed) / targets
        times = max(seen.targets) * len(missed) / targets
        never = [i for i in missed if seen.predicted[i] == 0]
        named = ", ".join(str(i) for i in never[:_SHOWN])
        named += f" and {len(never) - _SHOWN} more" if len(never) > _SHOWN else ""
        which = f" Never predicted: {named}." if never else ""
        return Finding(
            code=self.code,
            severity=severity,
            message=(
                f"At `{place}` {len(missed)} of {len(seen.targets)} classes are {times:,.0f} times "
                f"rarer than the most frequent one, and {share:.0%} of their {targets:.0f} targets "
                f"are recognised (threshold {self.recall:.0%}, {len(seen.steps)} looks from step "
                f"{seen.steps[0]:,} to {seen.steps[-1]:,}).{which}"
            ),
            remedy=_REMEDY,
            places=(place,),
            steps=(seen.steps[0], seen.steps[-1]),
            evidence=Evidence(
                share, self.recall, seen.steps[-1] - seen.steps[0] + 1, len(seen.steps)
            ),
        )
