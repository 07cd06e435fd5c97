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
from lightning_diag.rules.course import Course, chance_level, once, read_course
from lightning_diag.rules.dropout import Noise, Told
from lightning_diag.rules.reading import listing, shown, weights

_RECORDS = 4
"""Watched steps that must agree (our choice)."""

_DECOUPLED = frozenset({"SGD", "AdamW", "Lion", "LAMB", "Adafactor", "ASGD"})
"""Optimizers that do not divide the pull of decay by the size of the gradient."""
_GONE = 0.3
"""Share of their largest size below which weights are so small that a tenth of the usual pull of
decay tells why, if the loss is dull as well (our choice)."""
_LESS_NOISE_REMEDY = "Lower the probability of `torch.nn.Dropout` to 0.1 to 0.5, or augment less."
_STILL = 0.05
"""Share of the first loss by which it may still fall to count as flat (our choice)."""


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
        norm sees few samples at once. Where no module drops anything, it takes three times
        `below`. *Strong dropout*: with modules that drop `strong` or more it is enough that both
        losses are that bad; or, at any time, that the loss has grown past three times the first
        one, while steps until then, divided by how much larger such modules make a typical
        gradient, were below `usual`.

    Why it matters:
        The model is kept from fitting what it could fit: both losses stay bad (C2, W11).

    What to do:
        Divide weight decay by 10, or bring dropout down to 0.1 to 0.5; raise them again only once
        the model overfits. The number that `torch.nn.Dropout` takes is the share to drop; in
        TensorFlow 1 it was the share to keep.

    References:
        TheDeepChecker, 2023, arXiv:2204.00694: gradient of the regularisation at least twice that
        of the data. UMLAUT: dropout above 0.5.
        Srivastava et al., Dropout, JMLR 2014, section 7.3: to keep 0.4 to 0.8 of the units does
        well, to keep less makes the training error high as well.
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
    strong: float = 0.8
    """Probability of dropout that is suspect by itself, 0 to 1. Our choice: half of the least that
    Srivastava et al. would keep; some graph networks do well with that much, so it takes harm."""
    usual: float = 0.03
    """Update ratio that a learning rate may have, 0 or more. Our choice, as the `ratio` of
    `learning-rate-too-high`."""
    patience: int = 256
    """Steps before it is judged, at least 128. Our choice, as in `loss-plateau`."""

    def __post_init__(self) -> None:
        self._require("pull", "outweighs", "usual", least=0.0)
        self._require("shrunk", "high", "below", "dull", "strong", least=0.0, most=1.0)
        self._require("patience", least=128, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        course = read_course(history)
        if isinstance(course, str):
            return self.not_observed(course)
        if not course.from_start:
            return self.not_observed("the first steps of the run are not known")
        noise = Noise(
            history,
            course,
            below=self.below,
            dull=self.dull,
            strong=self.strong,
            usual=self.usual,
            remedy=_LESS_NOISE_REMEDY,
        )
        if noise.is_lost():
            stamp = (self, course.last)
            lost = once(history, f"{self.code}/lost", stamp, noise.lost)
            if lost:
                return self._found(lost)
        if course.steps < self.patience:
            return self.not_observed(f"the run is shorter than {self.patience} steps")
        level = _level(history, course)
        if level <= 0 or course.now.middle < self.high * level:
            return []
        stamp = (self, course.last)
        return once(history, self.code, stamp, lambda: self._judge(history, course, noise))

    def _judge(self, history: History, course: Course, noise: Noise) -> list[Finding]:
        if course.now.middle == math.inf:
            return []
        found = self._decay(history, course) or noise.holds_back()
        return self._found(found) if found else []

    def _decay(self, history: History, course: Course) -> Told | None:
        window = history.window("update/ratio", _RECORDS)
        names = weights(history)
        if len(window) < _RECORDS or not names or course.now.middle > 3 * course.start:
            return None
        strength = _decay_over_gradient(history, names)
        what, limit = "its gradient was at least {} times that of the data", self.outweighs
        if strength is None:
            pull = max(decay_pull(history), default=0.0)
            moved = [median(seen.get(n, 0.0) for n in names) for _, seen in window]
            strength = min(pull / ratio if ratio > 0 else math.inf for ratio in moved)
            what, limit = "its pull was at least {} times what weights moved by", self.pull
        if not 0.1 * limit <= strength < math.inf:
            return None
        if not course.is_flat(0.5, _STILL * course.start):
            return None
        small = _small(history, names)
        size = median(small.values() or (1.0,))
        # Nothing but decay takes weights to a fraction of their size.
        is_gone = size < _GONE and course.now.middle > self.dull * _level(history, course)
        limit *= 0.1 if is_gone and strength < limit else 1.0
        if strength < limit or size > self.shrunk:
            return None
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
        return Told("suspect", text, remedy, places, (first, last), evidence)

    def _found(self, told: Told) -> list[Finding]:
        return [Finding(code=self.code, **told._asdict())]


def _level(history: History, course: Course) -> float:
    """Return the loss of knowing nothing: the chance level, or the first loss if that is lower."""
    chance = chance_level(history, course)
    return course.start if chance is None else min(course.start, chance)


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


def _small(history: History, names: Sequence[str]) -> dict[str, float]:
    """Return the size of some weights, over the largest that they had."""
    sizes = {name: history.series("update/weight_norm", name).values for name in names[:8]}
    return {name: v[-1] / max(v) for name, v in sizes.items() if v and max(v) > 0}


def decay_pull(history: History) -> list[float]:
    """Return, for each parameter group, by which share of its size decay pulls a weight a step.

    Where decay is part of a gradient whose size the optimizer divides by, and has taken the weights
    to a fraction of their size, that is its share of the steps.
    """
    names = weights(history)
    over = _decay_over_gradient(history, names)
    if over is not None and over >= 1 and median(_small(history, names).values() or (1.0,)) < _GONE:
        newest = history.last("update/ratio")
        share = over / (1 + over) if over < math.inf else 1.0
        return [share * median(newest.get(name, 0.0) for name in names)]
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
