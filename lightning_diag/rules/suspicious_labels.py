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


class _Chance(NamedTuple):
    now: float
    chance: float
    text: str
    """What is compared, as a part of a sentence."""


@dataclass(frozen=True)
class SuspiciousLabels(Rule):
    """Targets in which a network finds nothing, though it trains as it should.

    What it sees:
        After `patience` steps the loss is still at `chance` or more of that of always answering
        with the frequencies of the classes (or with the mean of the targets), and nothing explains
        that: the typical weight moves by a healthy share in each step, `travel` times its own
        size in all, the first weights get gradients, predictions depend on the input, and the loss
        fits the output. It cannot tell a task that is too hard from wrong labels.

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

    chance: float = 0.9
    """Loss over that of a constant answer from which on nothing was learned, 0 to 1. Our choice:
    random labels of a thousand samples are at 0.9 to 1 after some passes; the slowest healthy run
    was at 0.8 by then."""
    above: float = 1.25
    """Loss over that of a constant answer from which on something else is wrong, at least 1. Our
    choice: a learning rate that is too large leaves the loss well above chance."""
    patience: int = 200
    """Steps before anything is said, at least 32. Our choice: healthy runs have left chance."""
    travel: float = 0.3
    """Times their own size that weights must have moved, 0 or more. Our choice: less may be too
    little to learn by."""
    ratio: float = 0.03
    """Update ratio above which steps are too large, 0 or more, as in `learning-rate-too-high`."""
    spread: float = 0.025
    """Spread of scores over samples that shows that the input counts, 0 or more; of a regression
    over the spread of the targets. Our choice: on a plateau before learning it is smaller."""

    def __post_init__(self) -> None:
        self._require("chance", least=0.0, most=1.0)
        self._require("above", least=1.0)
        self._require("patience", least=32, unit="steps")
        self._require("travel", "ratio", "spread", least=0.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if history.steps[-1] < self.patience:
            return self.not_observed(f"fewer than {self.patience} steps were taken")
        if self._is_learned(history):
            return []
        loss = loss_of_weights(history)
        if isinstance(loss, str):
            return self.not_observed(loss)
        place = the_loss(history)
        if place is None or not loss.from_start:
            return self.not_observed("the first training loss is not that of one loss function")
        found = self._at_chance(history, place)
        if found is None or not self._is_active(history, place) or not self._moves(history):
            return []
        return [self._found(place, found, loss.steps, history.steps[-1])]

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
            counts = pooled(history, "class/target_count", place, 16)
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

    def _found(self, place: str, found: _Chance, steps: int, last: int) -> Finding:
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
            steps=(max(0, last - _WINDOW + 1), last),
            evidence=Evidence(found.now, self.chance * found.chance, _WINDOW, _LOOKS),
        )


def entropy(counts: list[float]) -> float:
    """Return the loss of always answering with the frequencies, in nats.

    Example:
        >>> round(entropy([5.0, 5.0]), 4)
        0.6931
    """
    whole = sum(counts)
    shares = [count / whole for count in counts if count > 0] if whole > 0 else []
    return -sum(share * math.log(share) for share in shares)
