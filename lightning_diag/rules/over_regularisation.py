"""`OverRegularisation`: weight decay or dropout so strong that it keeps the model from learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.checks import Check, read_checks, validation_metric
from lightning_diag.rules.course import Course, chance_level, has_classes, once, read_course
from lightning_diag.rules.reading import listing, shown, weights

_RECORDS = 4
"""Watched steps that must agree (our choice)."""
_NEWEST = 3
"""Validations that must agree, as in `overfitting`."""


_DECOUPLED = frozenset({"SGD", "AdamW", "Lion", "LAMB", "Adafactor", "ASGD"})
"""Optimizers that do not divide the pull of decay by the size of the gradient."""
_BATCH = 8
"""Samples of one call below which batch norm makes noise of its own, which `batch-norm-gap` tells
(our choice, as there)."""
_FIRST = 2.0
"""Times `dull` where the first validation stands in for the chance level (our choice): with
dropout that is too strong the last one is hardly better than the first."""
_GONE = 0.3
"""Share of their largest size below which weights are so small that a tenth of the usual pull of
decay tells why, if the loss is dull as well (our choice)."""
_LEARNT = 0.9
"""Share of the first loss below which something was learned (our choice)."""
_STILL = 0.05
"""Share of the first loss by which it may still fall to count as flat (our choice)."""
_SLOW = 0.1
"""Share of the chance level by which validation may still fall in half of a run (our choice)."""
_UNKNOWN = 3.0
"""Times `below` where the loss is not known to be that of classes: squared errors of a few hundred
samples differ from set to set by 7 % (our choice)."""


@dataclass(frozen=True)
class OverRegularisation(Rule):
    """Weight decay or noise in the network that outweighs what the data say.

    What it sees:
        A loss that has not fallen in the newest half of the run, of at least `patience` steps, and
        one of two signs. *Decay*: in the newest four watched steps the pull of weight
        decay, the learning rate times the decay (over 1 minus the momentum), was at least `pull`
        of how far the typical weight really moved, or, with an optimizer that divides by the size
        of the gradient, as Adam does, the gradient of decay was `outweighs` times that of the
        data; weights have shrunk to `shrunk` of their largest size or below, and the loss is
        above `high` of where it began. Where they are down to less than a third, and the loss is
        above `dull` of chance, a tenth of that pull is enough. *Dropout*: in the newest three
        validations the loss was below that of training by `below`, so noise in training costs
        that much, and still above `dull` of what a model gets that tells no sample from another,
        now and if it went on falling as in the newest half for as long again. Where data are
        augmented or dropout does its work the second is not so, and it is not judged where batch
        norm sees few samples at once.

    Why it matters:
        The model is kept from fitting what it could fit: both losses stay bad (C2, W11).

    What to do:
        Divide weight decay by 10, or bring dropout down to 0.1 to 0.5; raise them again only once
        the model overfits.

    References:
        TheDeepChecker, 2023, arXiv:2204.00694: gradient of the regularisation at least twice that
        of the data. UMLAUT: dropout above 0.5.
        Loshchilov and Hutter, Decoupled Weight Decay, 2019, arXiv:1711.05101.
    """

    code: ClassVar[str] = "over-regularisation"
    needs: ClassVar[tuple[str, ...]] = ("loss/train",)
    uses: ClassVar[tuple[str, ...]] = (
        "batch_norm/batch_size",
        "gradient/norm",
        "lr/value",
        "target/std",
        "update/ratio",
        "update/weight_norm",
    )

    pull: float = 0.5
    """Pull of decay over the real movement, 0 or more. Our choice: 0.02 to 0.7 in healthy runs,
    the largest of them with a loss near zero; 1 and more in those that decay held back."""
    shrunk: float = 0.85
    """Size of the weights over the largest they had, 0 to 1. Our choice: those of healthy runs
    grew or stayed."""
    high: float = 0.15
    """Share of the first loss that counts as held back, 0 to 1. Our choice: decay that leaves
    less than that has not kept the model from fitting."""
    below: float = 0.05
    """Share of the training loss by which validation lies below it, 0 to 1. Our choice, above
    what a difference between the two sets makes."""
    dull: float = 0.5
    """Share of the chance level that validation must be above, 0 to 1. Our choice: half of what
    there is to learn, as in `underfitting`."""
    outweighs: float = 2.0
    """Gradient of decay over that of the data, 0 or more (TheDeepChecker)."""
    patience: int = 256
    """Steps before it is judged, at least 128. Our choice, as in `loss-plateau`."""

    def __post_init__(self) -> None:
        self._require("pull", "outweighs", least=0.0)
        self._require("shrunk", "high", "below", "dull", least=0.0, most=1.0)
        self._require("patience", least=128, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if not course.from_start:
            return self.not_observed("the first steps of the run are not known")
        if course.steps < self.patience:
            return self.not_observed(f"the run is shorter than {self.patience} steps")
        level = _level(history, course)
        if level <= 0 or course.now.middle < self.high * level:
            return []
        return once(history, self.code, (self, course.last), lambda: self._judge(history, course))

    def _judge(self, history: History, course: Course) -> list[Finding]:
        if course.now.middle == math.inf:
            return []
        return self._decay(history, course) or self._dropout(history, course)

    def _decay(self, history: History, course: Course) -> list[Finding]:
        window = history.window("update/ratio", _RECORDS)
        names = weights(history)
        if len(window) < _RECORDS or not names or course.now.middle > 3 * course.start:
            return []
        strength = _decay_over_gradient(history, names)
        what, limit = "its gradient was at least {} times that of the data", self.outweighs
        if strength is None:
            pull = max(decay_pull(history), default=0.0)
            moved = [median(seen.get(n, 0.0) for n in names) for _, seen in window]
            strength = min(pull / ratio if ratio > 0 else math.inf for ratio in moved)
            what, limit = "its pull was at least {} times what weights moved by", self.pull
        if not 0.1 * limit <= strength < math.inf:
            return []
        if not course.is_flat(0.5, _STILL * course.start):
            return []
        sizes = {name: history.series("update/weight_norm", name).values for name in names[:8]}
        small = {name: v[-1] / max(v) for name, v in sizes.items() if v and max(v) > 0}
        size = median(small.values()) if small else 1.0
        # Nothing but decay takes weights to a fraction of their size.
        is_gone = size < _GONE and course.now.middle > self.dull * _level(history, course)
        limit *= 0.1 if is_gone and strength < limit else 1.0
        if strength < limit or size > self.shrunk:
            return []
        places = tuple(sorted(small, key=small.__getitem__))
        first, last = window[0][0], window[-1][0]
        text = (
            f"Weight decay outweighs the data: in the watched steps from {first:,} to {last:,} "
            f"{what.format(shown(strength))} (threshold {shown(limit)}), {listing(places)} shrank "
            f"to {small[places[0]]:.0%} of the largest size or so, and the loss stands at "
            f"{shown(course.now.middle)}, after {shown(course.start)} at first."
        )
        remedy = "Divide the weight decay of the optimizer by 10."
        evidence = Evidence(strength, limit, last - first + 1, _RECORDS)
        return [self._found(text, remedy, places, (first, last), evidence)]

    def _dropout(self, history: History, course: Course) -> list[Finding]:
        metric = validation_metric(history)
        known = read_checks(history, metric) if metric else []
        checks, half = known[-_NEWEST:], [check.value for check in known[len(known) // 2 :]]
        if len(checks) < _NEWEST or _is_noise_of_batches(history):
            return []
        chance = chance_level(history, course)
        level = chance or min(course.start, known[0].value)
        if not has_classes(history) and course.best.middle > _LEARNT * course.start:
            return []  # two sets of numbers differ as much before anything is learned
        fall = max(half) - min(half)
        if fall > _SLOW * level:
            return []
        below = self.below * (1.0 if has_classes(history) else _UNKNOWN)
        shares = sorted(_share_below(known, i) for i in range(len(known) - _NEWEST, len(known)))
        least = shares[0] if shares[0] < 0.5 * below else median(shares)
        # Without a chance level the first validation stands in, which may have learnt already.
        dull = self.dull * (1.0 if chance else _FIRST)
        lowest = min(check.value for check in checks)
        if min(check.value for check in known) < dull * level:
            return []  # it did learn, and lost it again
        if not least > below or lowest - (fall if chance else 0.0) < dull * level:
            return []
        first, last = checks[0], checks[-1]
        text = (
            f"Noise in training, such as dropout, keeps the model from learning: the training loss "
            f"stands at {shown(last.train)}, and validation, without that noise, is lower by "
            f"{least:.0%} in the newest {_NEWEST} (threshold {below:.0%}) but still "
            f"bad, at {shown(last.value)} (telling no sample from another gives about "
            f"{shown(level)})."
        )
        remedy = "Lower the probability of `torch.nn.Dropout` to 0.1 to 0.5, or augment less."
        evidence = Evidence(least, below, last.step - first.step + 1, _NEWEST)
        return [self._found(text, remedy, (), (first.step, last.step), evidence)]

    def _found(
        self,
        text: str,
        remedy: str,
        places: tuple[str, ...],
        steps: tuple[int, int],
        evidence: Evidence,
    ) -> Finding:
        return Finding(
            code=self.code,
            severity="suspect",
            message=text,
            remedy=remedy,
            places=places,
            steps=steps,
            evidence=evidence,
        )


def _level(history: History, course: Course) -> float:
    """Return the loss of knowing nothing: the chance level, or the first loss if that is lower."""
    chance = chance_level(history, course)
    return course.start if chance is None else min(course.start, chance)


def _is_noise_of_batches(history: History) -> bool:
    """Return whether norms over few samples make the noise that validation does not have."""
    return any(size < _BATCH for size in history.last("batch_norm/batch_size").values())


def _share_below(checks: Sequence[Check], i: int) -> float:
    """Return by which share a validation lies below training at its time, from below at most 0.

    A loss that falls was lower at the validation than in the mean of the steps before.
    """
    train = checks[i].train
    fall = max(0.0, checks[i - 1].train - train) if i else 0.0
    train -= fall / 2
    return 1 - checks[i].value / train if train > 0 else 0.0


def _decay_over_gradient(history: History, names: Sequence[str]) -> float | None:
    """Return how many times as large as that of the data the gradient of decay was, at least.

    None where the optimizer applies decay apart from the gradient, or does not divide by its size.
    """
    optimizers = history.meta.get("optimizers", ())
    if not optimizers or str(optimizers[0].get("class")) in _DECOUPLED:
        return None
    groups = [group for group in optimizers[0].get("groups", ()) if isinstance(group, dict)]
    decay = max((group.get("weight_decay") or 0.0 for group in groups), default=0.0)
    if any(group.get("decoupled_weight_decay") for group in groups) or not decay:
        return None
    norms = dict(history.window("update/weight_norm", _RECORDS))
    shares = []
    for step, gradients in history.window("gradient/norm", _RECORDS):
        known = norms.get(step, {})
        over = [
            decay * known[name] / gradients[name]
            for name in names
            if name in known and gradients.get(name, 0.0) > 0
        ]
        if over:
            shares.append(median(over))
    return min(shares) if len(shares) == _RECORDS else 0.0


def decay_pull(history: History) -> list[float]:
    """Return, for each parameter group, by which share of its size decay pulls a weight a step."""
    rates = list(history.last("lr/value").values())
    groups: list[Mapping[str, Any]] = [
        group
        for optimizer in history.meta.get("optimizers", ())
        for group in optimizer.get("groups", ())
        if isinstance(group, dict)
    ]
    pulls = []
    for i, group in enumerate(groups):
        rate = rates[i] if len(rates) == len(groups) else max(rates, default=0.0)
        decay, momentum = group.get("weight_decay") or 0.0, group.get("momentum") or 0.0
        pulls.append(rate * decay / (1 - min(momentum, 0.999)))
    return pulls
