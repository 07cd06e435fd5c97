"""`NoisyGradient`: steps that follow the noise of their batch, and get nowhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import Loss, centre, loss_of_weights, shown, weights

_LEAST = 8
"""Cosines that the mean must rest on."""
_WEIGHTS = 5
_LEAP = 2.0
"""Times its level in the second quarter of the run that the loss has leapt at in the last."""
_NEAR_ZERO = 0.05
"""Share of the first loss that is no harm, and by which a loss that still falls does so."""


@dataclass(frozen=True)
class NoisyGradient(Rule):
    """Gradients that agree so little from batch to batch that training stalls in their noise.

    What it sees:
        The cosines of the gradients of neighbouring watched steps, the newest `records`: their mean
        estimates the share of a step that follows the true gradient, and is `share` or less. That
        alone is healthy: small batches learn well, and near a minimum nothing but noise is left. So
        it also takes harm that noise does, after `patience` steps and while the typical weight
        still moves by `ratio` a step on average: losses that scatter by `scatter` of their level,
        which has not halved and no longer falls; or losses that scatter by `wild` of their level,
        because steps that suit one batch spoil others, and whose *mean* over the last quarter of
        the run is `floor` of that over the second, and a twentieth of the first loss, or more. A
        note, or `suspect` if not even a tenth of the first loss is gone, or of wild losses half.

    Why it matters:
        The weights wander about at a distance from the minimum that grows with the learning rate
        and shrinks with the batch (W15, W10).

    What to do:
        Average over more samples (larger batches, or accumulation), or lower the learning rate. How
        many samples pay is measured by `GradientNoiseScale`.

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162.
        Smith et al., Don't Decay the Learning Rate, Increase the Batch Size, 2018,
        arXiv:1711.00489.
    """

    code: ClassVar[str] = "noisy-gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradient/cosine", "update/ratio", "loss/train")
    uses: ClassVar[tuple[str, ...]] = ("gradient/noise_scale", "loss/noise", "update/norm")

    share: float = 0.1
    """Mean cosine that counts, 0 to 1. Our choice: of the squared length of a step then less than
    a tenth is signal; sixteen pairs of batches of one or two samples tell no finer."""
    scatter: float = 0.2
    """Standard deviation of the loss around its trend over its level, 0 or more. Our choice:
    twice what batches of 64 scatter by on data that can be learned."""
    wild: float = 1.0
    """The same where most losses are small and some are huge, at least `scatter`. Our choice: the
    scatter is as large as the level; healthy losses of batches of 8 and more scatter by half of
    theirs until they are near zero."""
    floor: float = 0.6
    """Mean of the last quarter of the losses over that of the second from which on they no longer
    fall, 0 to 1. Our choice: healthy runs in which losses were wild came below a half."""
    ratio: float = 3e-3
    """Update ratio of the typical weight, 0 or more. Our choice, three times the usual 1e-3 of the
    CS231n notes: below, noise averages out over steps."""
    records: int = 16
    """Cosines that are averaged, at least 8. Our choice: the mean is off by a quarter of their
    spread."""
    patience: int = 300
    """Steps before the loss is judged, at least 64. Our choice: noise takes long to tell from a
    slow start."""

    def __post_init__(self) -> None:
        self._require("share", "floor", least=0.0, most=1.0)
        self._require("scatter", "wild", "ratio", least=0.0)
        self._require_order("scatter", "wild")
        self._require("records", least=_LEAST, unit="cosines")
        self._require("patience", least=64, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        loss = loss_of_weights(history)
        if isinstance(loss, str):
            return self.not_observed(loss)
        window = history.window("gradient/cosine", self.records)
        known = [seen[""] for _, seen in window if "" in seen]
        if len(known) < _LEAST:
            return self.not_observed(f"fewer than {_LEAST} pairs of gradients were compared")
        noise = history.last("loss/noise").get("", 0.0)
        if loss.steps < self.patience or not loss.from_start or noise < self.scatter:
            return []
        mean = math.fsum(known) / len(known)
        if mean > self.share or (loss.progress >= 0.5 and noise < self.wild):
            return []
        moves = self.ratio <= _movement(history, self.records) < math.inf
        level = self._stalls_at(history, loss, noise) if moves else None
        if level is None:
            return []
        return [self._found(history, loss, (mean, noise, level), window)]

    def _stalls_at(self, history: History, loss: Loss, noise: float) -> float | None:
        """Return the level at which the loss no longer falls; None if it is not known to stall."""
        values = history.series("loss/train").values
        quarter = len(values) // 4
        second, last = values[quarter : 2 * quarter], values[-quarter:]
        if noise >= self.wild:
            level, before = math.fsum(last) / quarter, math.fsum(second) / quarter
            least = max(self.floor * before, _NEAR_ZERO * loss.start)
        else:
            level, before = centre(last), centre(second)
            least = centre(values[quarter : 3 * quarter]) - _NEAR_ZERO * loss.start
        # A loss that has leapt up has not stalled.
        return level if least <= level <= _LEAP * before < math.inf else None

    def _found(
        self,
        history: History,
        loss: Loss,
        measured: tuple[float, float, float],
        window: Sequence[tuple[int, dict[str, float]]],
    ) -> Finding:
        mean, noise, level = measured
        scale = history.last("gradient/noise_scale").get("")
        told = "" if scale is None else f" (noise scale: at least {shown(scale)} samples)"
        first, last = window[0][0], window[-1][0]
        harmless = 0.5 if noise >= self.wild else 0.9
        return Finding(
            code=self.code,
            severity="suspect" if level > harmless * loss.start else "note",
            message=(
                f"Steps follow the noise of their batch: over {len(window)} pairs of watched "
                f"steps from {first:,} to {last:,} the mean cosine of two gradients is "
                f"{shown(mean)} (threshold {self.share:g}){told}. The loss scatters by "
                f"{noise:.0%}, and has stalled at {shown(level)} after {shown(loss.start)}."
            ),
            remedy=(
                "Use batches of several times the size (`lightning_diag.GradientNoiseScale` says "
                "which), or `Trainer(accumulate_grad_batches=8)`, or divide the learning rate by 3 "
                "to 10."
            ),
            places=(),
            steps=(first, last),
            evidence=Evidence(mean, self.share, last - first + 1, len(window)),
        )


def _movement(history: History, records: int) -> float:
    """Return the mean over some records of the median update ratio, of at most five weights."""
    names = weights(history)
    picked = names[:: max(1, len(names) // _WEIGHTS)]
    seen = [
        [ratios[name] for name in picked if name in ratios]
        for _, ratios in history.window("update/ratio", records)
    ]
    typical = [centre(ratios) for ratios in seen if ratios]
    return math.fsum(typical) / len(typical) if typical else 0.0
