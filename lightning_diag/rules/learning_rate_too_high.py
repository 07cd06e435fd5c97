"""`LearningRateTooHigh`: updates so large that training suffers from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History, Series
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.dead_relu import silenced_between, without_loops
from lightning_diag.rules.over_regularisation import decay_pull
from lightning_diag.rules.reading import (
    Loss,
    best_level,
    centre,
    loss_of_weights,
    shown,
    travel,
    typical_ratio,
    weights,
)
from lightning_diag.rules.saturated_activation import hidden_calls

_SUSTAINED = 10
_NOTHING = 0.02
"""Progress below which nothing at all was won; a schedule may still save what has won a little."""
_LEARNED = 0.5
"""Progress from which on units that died are no harm by themselves: it then takes weights that
moved `travel` times their size, or `jump` in one step."""
_NEARLY = 0.9
"""Progress from which on nobody needs to be told that smaller steps might do better."""
_SMALL = 0.1
"""Share of the first loss below which a loss that has risen is the noise of one near zero."""


@dataclass(frozen=True)
class _Case:
    """A history, and its update ratios if they are asked for: reading them takes a while."""

    history: History
    loss: Loss

    @cached_property
    def ratio(self) -> Series:
        return typical_ratio(self.history)


class _Harm(NamedTuple):
    severity: Severity
    text: str
    """What happened, as the end of a sentence."""
    large: float
    """The update ratio that counts as large."""


@dataclass(frozen=True)
class LearningRateTooHigh(Rule):
    """Updates so large, against the weights, that training suffers from them.

    What it sees:
        Two witnesses, and both must agree. *Updates*: in some watched steps the typical weight
        tensor changed by `ratio` of its size or more, one of the ten before a run was lost; unless
        it was, or units died with it, weights moved `travel` times their own size in such steps, or
        `jump` in one. *Harm*: the loss is not finite; after `patience` steps it is three times what
        it was at first, or has lost `lost` of a gain of at least 30 %, or is `rebound` times its
        best level while updates are still a third of `ratio`; after `standstill` steps it has not
        fallen by a tenth, or not halved while hidden sigmoids or tanhs are saturated; after twice
        as many it has not halved while the newest ten watched steps all stayed above `sustained`;
        after such updates most weights get a gradient of exactly zero; or `dead` of the units of a
        ReLU fell silent with such an update, and the loss has not halved, or weights moved as far
        as above. A note where the loss has halved and not fallen to a tenth, weights moved `travel`
        times, and the newest ten steps still stay above a quarter of `sustained`. Large updates
        without harm are normal: Adam's first steps, small networks, weights behind a norm layer, a
        bump at the top of a warm-up. So are updates half of which are weight decay: that is told by
        `over-regularisation`. Weights that start at zero are left out.

    Why it matters:
        Steps that overshoot throw the weights to where the loss is worse; units die or saturate,
        and that outlasts the learning rate (W5, W6, W10).

    What to do:
        Divide the learning rate by 3 to 10, until updates are about a thousandth of the weights;
        warm it up, or clip gradients if only a few steps are too large.

    References:
        CS231n course notes, Neural Networks Part 3: ratio of updates to weights about 1e-3.
        Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677 (warm-up).
    """

    code: ClassVar[str] = "learning-rate-too-high"
    needs: ClassVar[tuple[str, ...]] = ("update/ratio", "loss/train")
    uses: ClassVar[tuple[str, ...]] = (
        "activation/saturated_fraction",
        "dead_relu/fraction",
        "dead_relu/since_step",
        "dead_relu/window_samples",
        "gradient/norm",
        "lr/value",
        "update/norm",
    )

    ratio: float = 0.03
    """Update ratio that counts as large, 0 or more. Our choice, thirty times the usual 1e-3 of
    the CS231n notes: most healthy runs never get there, and every run that its learning rate had
    harmed did."""
    travel: float = 1.5
    """Times their own size that the weights must have moved in such steps, 0 or more. Our choice:
    after that little is left of the initial weights."""
    jump: float = 0.5
    """Update ratio that counts by itself, at least `ratio`. Our choice: half of every weight
    replaced in one step."""
    sustained: float = 0.02
    """Update ratio that ten watched steps stay above while the loss does not halve, 0 or more. Our
    choice: twenty times the usual; healthy runs that had halved their loss kept below 0.018, those
    on noisy targets, which cannot, below 0.013."""
    lost: float = 0.5
    """Share of what the loss had won, and has lost again, that counts as harm, 0 to 1. Our
    choice: a healthy loss, also a noisy one, gives back less than a third."""
    rebound: float = 3.0
    """Times its best level that a loss of a tenth of the first one or more counts as having risen,
    above 1. Three times is the usual sign of divergence (W12); healthy levels stayed below 2."""
    dead: float = 0.4
    """Share of the units of a ReLU call, dead since a large update, that counts as harm, 0 to 1
    (W5, CS231n: a learning rate set too high can kill 40 %)."""
    saturated: float = 0.5
    """Share of saturated inputs that counts as harm, 0 to 1, as in `saturated-activation`."""
    patience: int = 48
    """Steps before a loss that rose is judged, at least 16. Our choice: healthy runs that start
    with a bump are over it after two or three dozen steps, and 16 losses make its level."""
    standstill: int = 100
    """Steps before a loss that stands where it began is judged, at least 16. Our choice: some
    runs with large updates that learn well in the end wander for several dozen steps."""

    def __post_init__(self) -> None:
        self._require("ratio", "travel", "jump", "sustained", least=0.0)
        self._require_order("ratio", "jump")
        self._require("rebound", least=1.0)
        self._require("lost", "dead", "saturated", least=0.0, most=1.0)
        self._require("patience", "standstill", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        loss = loss_of_weights(history)
        if isinstance(loss, str):
            return self.not_observed(loss)
        if not loss.from_start:
            return self.not_observed("the first steps of the run are not known")
        case = _Case(history, loss)
        harm = (
            self._harm_to_loss(case)
            or self._died(case)
            or self._saturated(case)
            or self._crawls(case)
            or self._cut_off(case)
            or self._wanders(case)
        )
        return [self._found(case, harm)] if harm and not self._is_decay(case) else []

    def _is_large(self, ratio: Series, *, is_lost: bool = False) -> bool:
        known = [value for value in ratio.values if value < math.inf]
        if is_lost:  # by what came just before, not by the first steps of a run that went well
            return max(known[-_SUSTAINED:], default=0.0) >= self.ratio
        return max(known, default=0.0) >= self.jump or travel(ratio, self.ratio) >= self.travel

    def _is_decay(self, case: _Case) -> bool:
        """Return whether decay makes half of the newest updates, and they are large by it."""
        pull = max(decay_pull(case.history), default=0.0)
        return pull >= self.ratio / 3 and 2 * pull >= median(case.ratio.values[-_SUSTAINED:])

    def _harm_to_loss(self, case: _Case) -> _Harm | None:
        loss, is_lost = case.loss, case.loss.now == math.inf
        is_judged = loss.steps >= self.patience and loss.progress < 0.7
        if not (is_lost or is_judged):
            return None
        if not self._is_large(case.ratio, is_lost=is_lost):
            return None
        return self._what_became_of(case)

    def _what_became_of(self, case: _Case) -> _Harm | None:
        """Say what went wrong with the loss, if it did."""
        loss = case.loss
        if loss.now == math.inf or loss.progress < -2.0:
            text = f"the loss went from {shown(loss.start)} to {shown(loss.now)}"
            return _Harm("bad", text, self.ratio)
        best = best_level(case.history)
        # What was won must be more than the noise of a few batches, and so must what was lost.
        if best < 0.7 * loss.start and loss.now - best > self.lost * (loss.start - best):
            newest = case.history.window("loss/train", self.patience)
            if centre(v[""] for _, v in newest) - best > self.lost * (loss.start - best):
                text = f"the loss is back at {shown(loss.now)}, after {shown(best)}"
                return _Harm("bad", text, self.ratio)
        if self._rebounds(case, best):
            text = f"the loss has risen to {shown(loss.now)}, after {shown(best)}"
            return _Harm("suspect", text, self.ratio)
        if loss.progress < 0.1 and loss.steps >= self.standstill:
            text = f"the loss stands at {shown(loss.now)}, where it began"
            is_lost = loss.progress < _NOTHING and loss.steps >= 2 * self.standstill
            return _Harm("bad" if is_lost else "suspect", text, self.ratio)
        return None

    def _rebounds(self, case: _Case, best: float) -> bool:
        """Return whether the loss stays at several times its best, and steps are still large."""
        least = max(self.rebound * best, _SMALL * case.loss.start)
        if not case.loss.now >= least or not min(case.ratio.values[-_SUSTAINED:]) >= self.ratio / 3:
            return False
        newest = case.history.window("loss/train", self.patience)
        return centre(values[""] for _, values in newest) >= least

    def _died(self, case: _Case) -> _Harm | None:
        history = case.history
        dead = without_loops(history.last("dead_relu/fraction"), history.meta.get("sites", {}))
        if not dead:
            return None
        place = max(dead, key=dead.__getitem__)
        if dead[place] >= self.dead:
            begin, end = silenced_between(history, place)
            near = [v for s, v in zip(*case.ratio, strict=True) if begin <= s < end]
            has_learned = case.loss.progress > _LEARNED
            if has_learned and not self._is_large(case.ratio):
                return None
            if self.ratio <= max(near, default=0.0) < math.inf:
                text = f"{dead[place]:.0%} of the units of `{place}` died with them"
                return _Harm("suspect", text, self.ratio)
        return None

    def _saturated(self, case: _Case) -> _Harm | None:
        if case.loss.steps < self.standstill or not case.loss.progress < 0.5:
            return None
        newest = case.history.last("activation/saturated_fraction")
        for place in hidden_calls(case.history):
            if newest.get(place, 0.0) >= self.saturated:
                values = case.history.series("activation/saturated_fraction", place).values
                if values[0] < self.saturated / 2 and self._is_large(case.ratio):
                    text = f"`{place}` has saturated for {values[-1]:.0%} of its inputs"
                    return _Harm("suspect", text, self.ratio)
        return None

    def _crawls(self, case: _Case) -> _Harm | None:
        loss, newest = case.loss, case.history.last("update/ratio")
        if loss.steps < 2 * self.standstill or not loss.progress < 0.5:
            return None
        if (
            not median(newest.get(name, 0.0) for name in weights(case.history))
            >= self.sustained / 2
        ):
            return None
        values = case.ratio.values[-_SUSTAINED:]
        if len(values) < _SUSTAINED or min(values) < self.sustained or max(values) == math.inf:
            return None
        text = f"the loss has only come from {shown(loss.start)} to {shown(loss.now)}"
        return _Harm("suspect", text, self.sustained)

    def _wanders(self, case: _Case) -> _Harm | None:
        """A note: it learns, at a distance from the minimum that its steps keep up."""
        loss, newest = case.loss, case.history.last("update/ratio")
        if loss.steps < 2 * self.standstill or not 0.5 <= loss.progress < _NEARLY:
            return None
        least = self.sustained / 4
        if not median(newest.get(name, 0.0) for name in weights(case.history)) >= least / 2:
            return None
        values = case.ratio.values[-_SUSTAINED:]
        if len(values) < _SUSTAINED or not least <= min(values) <= max(values) < math.inf:
            return None
        if travel(case.ratio, self.ratio) < self.travel:
            return None
        text = f"the newest ten still by {shown(min(values))} or more; the loss has fallen, and is"
        return _Harm("note", f"{text} {shown(loss.now)} after {shown(loss.start)}", self.ratio)

    def _cut_off(self, case: _Case) -> _Harm | None:
        loss, names = case.loss, weights(case.history)
        if loss.steps < self.patience or not loss.progress < 0.3:
            return None
        if not _is_mostly_zero(case.history.last("gradient/norm"), names):
            return None
        window = case.history.window("gradient/norm", _SUSTAINED)
        if len(window) < _SUSTAINED or not all(_is_mostly_zero(seen, names) for _, seen in window):
            return None
        if not self._is_large(case.ratio):
            return None
        text = f"since then most weights get no gradient, and the loss is {shown(loss.now)}"
        return _Harm("bad", text, self.ratio)

    def _found(self, case: _Case, harm: _Harm) -> Finding:
        history, ratio = case.history, case.ratio
        large = [(v, s) for s, v in zip(*ratio, strict=True) if harm.large <= v < math.inf]
        peak, step = max(large)
        middle = median(value for value, _ in large)
        newest = history.last("update/ratio")
        known = [name for name in weights(history) if name in newest]
        first, last = large[0][1], large[-1][1]
        return Finding(
            code=self.code,
            severity=harm.severity,
            message=(
                f"Updates are too large: in {len(large)} of {len(ratio.steps)} watched steps the "
                f"typical weight changed by {shown(harm.large)} of its size or more (usual: 0.001; "
                f"median of those {shown(middle)}, at step {step:,} {shown(peak)}), and "
                f"{harm.text}."
            ),
            remedy=(
                "Divide the learning rate by 3 to 10, until `update/ratio` is about 1e-3; if only "
                "the first steps are too large, warm it up."
            ),
            places=tuple(sorted(known, key=lambda name: -newest[name])[:8]),
            steps=(first, history.steps[-1]),
            evidence=Evidence(peak, harm.large, last - first + 1, len(large)),
        )


def _is_mostly_zero(norms: dict[str, float], names: list[str]) -> bool:
    """Return whether at least half of the weights have a gradient of exactly zero."""
    return 2 * sum(norms.get(name) == 0 for name in names) >= len(names)
