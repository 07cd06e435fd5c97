"""`ExplodingGradient`: gradients that outgrow the run's own, or grow from layer to layer."""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar
from weakref import WeakKeyDictionary

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History, Series
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.depth import gradient_by_depth
from lightning_diag.rules.reading import (
    centre,
    has_several_optimizers,
    is_stuck,
    listing,
    shown,
)

_BEFORE = 16
_AFTER = 8
_LASTING = 4
"""Losses that must have grown (our choice): a batch with a rare sample is one or two."""
_START = 64
"""Steps after which a loss that is finite again has survived its start (our choice)."""


_LOWEST: WeakKeyDictionary[History, tuple[int, int, float]] = WeakKeyDictionary()
"""Records of a history, step of the newest one, and the lowest norm up to it."""


@dataclass(frozen=True)
class ExplodingGradient(Rule):
    """Gradients that outgrow the run's own history, or that grow from layer to layer.

    What it sees:
        *In time*: the newest watched steps all have a gradient norm of `growth` times the median of
        the 16 watched steps before, or a non-finite one after such growth, and the losses since
        then are `loss_growth` times the largest of the 16 before; four losses at least, or as many
        times the first loss, since one batch that is not like the others is no explosion. *From the
        start*: the first gradient's norm is `first_growth` times that of the weights, and the loss
        of the next steps is not finite or `loss_growth` times the first. *In depth*: over 8 watched
        steps the first layer's RMS gradient is `depth_growth` times the last layer's, and the loss
        has not halved. No absolute norm counts, since norms scale with the loss. Norms are taken
        before clipping; where clipping does its work the loss does not jump, and nothing is said.

    Why it matters:
        A step along such a gradient throws the weights far off: the loss jumps, often to NaN (W2).

    What to do:
        Clip gradients, at a threshold that you set or by `AutoClip`, which finds its own; lower the
        learning rate or warm it up; in recurrent networks clip always.
        If gradients grow with depth, scale the initial weights by fan-in or add normalisation.

    References:
        Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013.
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
    """

    code: ClassVar[str] = "exploding-gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradient/total_norm", "loss/train")
    uses: ClassVar[tuple[str, ...]] = ("gradient/norm", "update/weight_norm")
    tells_onset: ClassVar[bool] = True

    growth: float = 100.0
    """How many times the run's own norm counts, above 1. Our choice: of healthy runs whose loss
    rose at all, none passed 64; published tools disagree by decades (70 to 1e6) on absolute
    norms."""
    loss_growth: float = 3.0
    """How many times the loss before counts, above 1. Three times the initial loss is the usual
    sign of divergence (W12)."""
    first_growth: float = 10.0
    """First gradient's norm over the weights' that counts, above 1. Our choice: a learning
    rate of 0.1 then replaces the weights in one step; no healthy run that was looked at passed
    5."""
    depth_growth: float = 100.0
    """First layer's RMS gradient over the last's, above 1. torchmortem warns at 100, AutoTrainer
    at 70; healthy networks of up to 17 layers stayed below 8."""

    def __post_init__(self) -> None:
        self._require("growth", "loss_growth", "first_growth", "depth_growth", least=1.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if has_several_optimizers(history):
            return self.not_observed("several optimizers share one loss curve")
        newest = history.last("gradient/total_norm").get("", math.nan)
        # False for NaN: then a closer look is due.
        is_usual = newest < self.growth * _lowest(history)
        norms = None if is_usual else history.series("gradient/total_norm")
        found = self._in_time(history, norms) if norms and len(norms.values) > 1 else None
        found = found or self._at_start(history) or self._in_depth(history)
        return [found] if found else []

    def _in_time(self, history: History, norms: Series) -> Finding | None:
        onset = self._onset(norms.values)
        if onset is None:
            return None
        begin, reference = onset
        first, last = norms.steps[begin], norms.steps[-1]
        losses = history.series("loss/train")
        before = [v for s, v in zip(*losses, strict=True) if first - _BEFORE <= s < first]
        after = [v for s, v in zip(*losses, strict=True) if s >= first]
        highest = max((v for v in before if math.isfinite(v)), default=math.nan)
        now = centre(after[-_AFTER:])
        if not highest > 0 or not now >= self.loss_growth * highest:
            return None
        if len(after) < _LASTING and now < self.loss_growth * losses.values[0]:
            return None
        peak = max(v for v in norms.values[begin:] if not math.isnan(v))
        places = self._most_grown(history, len(norms.steps) - begin)
        where = f" It grew most in {listing(places)}." if places else ""
        return Finding(
            code=self.code,
            severity="bad",
            message=(
                f"From step {first:,} on the gradient norm is up to {shown(peak)}, over "
                f"{self.growth:g} times the {shown(reference)} of the {min(begin, _BEFORE)} "
                f"watched steps before; the loss went from {shown(highest)} to {shown(now)}.{where}"
            ),
            remedy=(
                "Set `Trainer(gradient_clip_val=1.0)` or add `lightning_diag.AutoClip`, lower the "
                "learning rate, or warm it up over the first few hundred steps."
            ),
            places=places,
            steps=(first, last),
            evidence=Evidence(
                min(peak / reference, sys.float_info.max),
                self.growth,
                last - first + 1,
                len(norms.steps) - begin,
            ),
        )

    def _onset(self, norms: list[float]) -> tuple[int, float] | None:
        """Return from where on all norms are grown, and the median before."""
        grown = [math.inf if math.isnan(norm) else norm for norm in norms]
        lowest = list(itertools.accumulate(grown, min))
        smallest, found = math.inf, None
        for begin in range(len(grown) - 1, 0, -1):
            smallest = min(smallest, grown[begin])
            if smallest < self.growth * lowest[begin - 1]:
                break
            before = grown[max(0, begin - _BEFORE) : begin]
            reference = centre(norm for norm in before if norm < math.inf)
            if reference > 0 and smallest >= self.growth * reference:
                found = begin, reference
        # NaN alone is no growth: it may come from the data.
        is_shown = found and any(not math.isnan(norm) for norm in norms[found[0] :])
        return found if is_shown else None

    def _most_grown(self, history: History, records: int) -> tuple[str, ...]:
        """Return the parameters whose gradients grew most when it began, `records` ago."""
        if records > _BEFORE:
            return ()
        window = history.window("gradient/norm", records + 1)
        if len(window) < 2:
            return ()
        old, new = window[0][1], window[1][1]
        grown = {n: v / old[n] for n, v in new.items() if old.get(n, 0) > 0 <= v}
        return tuple(sorted(grown, key=lambda name: -grown[name])[:8])

    def _at_start(self, history: History) -> Finding | None:
        if history.steps[-1] > _START and math.isfinite(history.last("loss/train").get("", 0.0)):
            return None
        first = next(islice(history.records(), 1))
        norm = first.values.get("gradient/total_norm", {}).get("", math.nan)
        weight = math.hypot(*first.values.get("update/weight_norm", {}).values())
        if first.step != 0 or not weight > 0 or not self.first_growth * weight <= norm < math.inf:
            return None
        losses = history.series("loss/train").values[:_BEFORE]
        after = losses[1:][-_AFTER:]
        if not after or (len(after) < _LASTING and math.isfinite(after[-1])):
            return None
        now = centre(after)
        if not losses or not 0 < losses[0] < math.inf or not now >= self.loss_growth * losses[0]:
            return None
        norms = first.values.get("gradient/norm", {})
        places = tuple(sorted(norms, key=lambda name: -norms[name])[:8])
        end = min(history.steps[-1], _BEFORE - 1)
        return Finding(
            code=self.code,
            severity="bad",
            message=(
                f"The first gradient has a norm of {shown(norm)}, {shown(norm / weight)} times "
                f"that of the weights (threshold {self.first_growth:g}); the loss went from "
                f"{shown(losses[0])} to {shown(now)}. It is largest in {listing(places)}."
            ),
            remedy=(
                "Scale the initial weights by fan-in (`torch.nn.init.kaiming_normal_`), scale "
                "inputs and targets to a standard deviation of 1, or set "
                "`Trainer(gradient_clip_val=1.0)`."
            ),
            places=places,
            steps=(0, end),
            evidence=Evidence(
                min(norm / weight, sys.float_info.max), self.first_growth, end + 1, 1
            ),
        )

    def _in_depth(self, history: History) -> Finding | None:
        for profile in gradient_by_depth(history):
            last = max(profile.gradient[-2:])
            ratio = profile.gradient[0] / last if last > 0 else math.nan
            if not ratio >= self.depth_growth or not is_stuck(history, 0.5, _BEFORE):
                continue
            order = sorted(profile.names, key=profile.gradient_of, reverse=True)
            return Finding(
                code=self.code,
                severity="suspect",
                message=(
                    f"Gradients grow from the output to the input: over {profile.records} watched "
                    f"steps the RMS gradient of `{profile.names[0]}` is {shown(ratio)} times that "
                    f"of the last layers (threshold {self.depth_growth:g}), and the loss has not "
                    "halved."
                ),
                remedy=(
                    "Scale the initial weights by fan-in (`torch.nn.init.xavier_normal_`, for ReLU "
                    "`torch.nn.init.kaiming_normal_`), or add normalisation between the layers."
                ),
                places=tuple(order[:8]),
                steps=profile.steps,
                evidence=Evidence(
                    ratio,
                    self.depth_growth,
                    profile.steps[1] - profile.steps[0] + 1,
                    profile.records,
                ),
            )
        return None


def _lowest(history: History) -> float:
    """Return the lowest gradient norm that the run had, or less; only new ones are read."""
    records, step, low = _LOWEST.get(history, (0, -1, math.inf))
    window = history.window("gradient/total_norm", max(1, len(history) - records) + 1)
    if window[0][0] <= step <= window[-1][0]:
        low = min(low, *(values[""] for _, values in window if "" in values))
    else:
        low = min(history.series("gradient/total_norm").values, default=0.0)
    _LOWEST[history] = len(history), window[-1][0], low
    return low
