"""`NoisyGradient`: steps that follow the noise of their batch, and get nowhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import centre, loss_of_weights, shown, typical_ratio

_LEAST = 8
"""Cosines that the mean must rest on."""


@dataclass(frozen=True)
class NoisyGradient(Rule):
    """Gradients that agree so little from batch to batch that training stalls in their noise.

    What it sees:
        The cosines of the gradients of neighbouring watched steps, the newest `records`: their mean
        estimates the share of a step that follows the true gradient, and is `share` or less. That
        alone is healthy: small batches learn well, and near a minimum nothing but noise is left.
        So it also takes harm that noise does: losses that scatter by `scatter` of their level, a
        typical weight that still moves by `ratio` a step, and after `patience` steps a loss that
        has not halved and no longer falls. A note, or `suspect` if not even a tenth of the first
        loss is gone.

    Why it matters:
        The weights wander about at a distance from the minimum that grows with the learning rate
        and shrinks with the batch (W15, W10).

    What to do:
        Average over more samples (larger batches, or accumulation), or lower the learning rate.

    References:
        McCandlish et al., An Empirical Model of Large-Batch Training, 2018, arXiv:1812.06162.
        Smith et al., Don't Decay the Learning Rate, Increase the Batch Size, 2018,
        arXiv:1711.00489.
    """

    code: ClassVar[str] = "noisy-gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradient/cosine", "update/ratio", "loss/train")
    uses: ClassVar[tuple[str, ...]] = ("gradient/noise_scale", "loss/noise", "update/norm")

    share: float = 0.05
    """Mean cosine that counts, 0 to 1. Our choice: of the squared length of a step then less than
    a twentieth is signal."""
    scatter: float = 0.2
    """Standard deviation of the loss around its trend over its level, 0 or more. Our choice:
    twice what batches of 64 scatter by on data that can be learned."""
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
        self._require("share", least=0.0, most=1.0)
        self._require("scatter", "ratio", least=0.0)
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
        if loss.steps < self.patience or loss.progress >= 0.5 or not loss.from_start:
            return []
        mean = math.fsum(known) / len(known)
        noise = history.last("loss/noise").get("", 0.0)
        if mean > self.share or noise < self.scatter:
            return []
        moved = centre(typical_ratio(history).values[-_LEAST:])
        if not self.ratio <= moved < math.inf or _still_falls(history, loss.start):
            return []
        scale = history.last("gradient/noise_scale").get("")
        told = "" if scale is None else f" (noise scale: at least {shown(scale)} samples)"
        first, last = window[0][0], window[-1][0]
        return [
            Finding(
                code=self.code,
                severity="suspect" if loss.progress < 0.1 else "note",
                message=(
                    f"Steps follow the noise of their batch: over {len(known)} pairs of watched "
                    f"steps from {first:,} to {last:,} the mean cosine of two gradients is "
                    f"{shown(mean)} (threshold {self.share:g}){told}. The loss scatters by "
                    f"{noise:.0%}, and has stalled at {shown(loss.now)} after {shown(loss.start)}."
                ),
                remedy=(
                    "Use batches of several times the size, or "
                    "`Trainer(accumulate_grad_batches=8)`, or divide the learning rate by 3 to 10."
                ),
                places=(),
                steps=(first, last),
                evidence=Evidence(mean, self.share, last - first + 1, len(known)),
            )
        ]


def _still_falls(history: History, start: float) -> bool:
    """Return whether the loss fell by a twentieth of its start from the middle to the end."""
    values = history.series("loss/train").values
    quarter = len(values) // 4
    middle, end = values[quarter : 3 * quarter], values[-quarter:]
    return centre(middle) - centre(end) > 0.05 * start
