"""`NonFinite`: NaN or infinity in the loss or in a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import listing, shown

_LOSSES = 64
_RECORDS = 32


@dataclass(frozen=True)
class NonFinite(Rule):
    """NaN or infinity in the loss or in a gradient, and the first place that had it.

    What it sees:
        The newest 64 losses and 32 watched steps. Of the first watched step with a non-finite
        number it names the first call in the forward pass whose output has one; if there is none,
        the parameter that backward reached first. Steps that the grad scaler skipped are its
        search for a scale, and count only after `max_skips` of them in a row (P12). Infinite
        activations alone are no finding: attention masks are made of them.

    Why it matters:
        One NaN in a gradient makes its weight NaN, the next forward pass spreads it, and no later
        step undoes it (W2).

    What to do:
        Look at the place named: a division or square root at 0, a logarithm of 0, an overflow in
        half precision, or NaN in the batch. If norms grew before, treat that instead.

    References:
        Micikevicius et al., Mixed Precision Training, ICLR 2018, arXiv:1710.03740.
        Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013.
    """

    code: ClassVar[str] = "non-finite"
    uses: ClassVar[tuple[str, ...]] = (
        "loss/train",
        "gradient/total_norm",
        "gradient/nonfinite_count",
        "activation/nonfinite_count",
        "update/skipped",
        "amp/scale",
    )
    tells_onset: ClassVar[bool] = True

    max_skips: int = 12
    """Watched steps in a row that the grad scaler may skip, at least 1. Our choice: twelve at the
    start of a run are 20 or more halvings of the scale, from 65,536 to below 0.1; a sound loss
    finds its scale earlier, and later in a run twelve looks are hundreds of steps."""

    def __post_init__(self) -> None:
        self._require("max_skips", least=1, unit="watched step")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if not {"loss/train", "gradient/total_norm"} & set(history.metrics()):
            return self.not_observed("neither `loss/train` nor `gradient/total_norm` was measured")
        losses = [(step, v[""]) for step, v in history.window("loss/train", _LOSSES)]
        # With several optimizers there is a number for each of them.
        skips = history.window("update/skipped", _RECORDS)
        skipped = [(step, min(values.values())) for step, values in skips]
        streak = _streak(skipped)
        if streak >= self.max_skips:
            return [self._scaler_gave_up(history, skipped, streak)]
        excused = {step for step, was_skipped in skipped if was_skipped}
        totals = history.window("gradient/total_norm", _RECORDS)
        norms = [(step, sum(values.values())) for step, values in totals]
        bad_losses = [s for s, loss in losses if not math.isfinite(loss) and s not in excused]
        bad_norms = [s for s, norm in norms if not math.isfinite(norm) and s not in excused]
        if not bad_losses and not bad_norms:
            return []
        # Under a grad scaler one bad batch does no harm: the step is skipped.
        patience = 8 if skipped else 1
        newest = [math.isfinite(loss) for _, loss in losses[-patience:]]
        over = any(newest) and not (norms and norms[-1][0] in bad_norms)
        return [self._found(history, losses, min(bad_losses + bad_norms), is_over=over)]

    def _found(
        self, history: History, losses: list[tuple[int, float]], first: int, *, is_over: bool
    ) -> Finding:
        look = next((step for step in history.steps[-_RECORDS:] if step >= first), None)
        places, count, where = _origin(history, look) if look is not None else ((), 0, "")
        values = dict(losses)
        if math.isfinite(values.get(first, math.nan)):
            message = f"At step {first:,} the loss is finite, but a gradient is not"
        elif first in values:
            message = f"At step {first:,} the loss is {values[first]}"
        else:
            message = f"At step {first:,} a gradient is not finite"
        before = values.get(first - 1, math.nan)
        if math.isfinite(before):
            message += f"; the loss of the step before was {shown(before)}"
        return Finding(
            code=self.code,
            severity="suspect" if is_over else "bad",
            message=f"{message}.{where}" + (" It has passed." if is_over else ""),
            remedy=(
                "Look there for a division, root or logarithm of 0, an overflow in half precision "
                "or NaN in the batch; if gradients grew before, lower the learning rate or set "
                "`Trainer(gradient_clip_val=1.0)`."
            ),
            places=places,
            steps=(first, history.steps[-1]),
            evidence=Evidence(float(max(count, 1)), 0.0, max(len(losses), 1), len(history)),
        )

    def _scaler_gave_up(
        self, history: History, skipped: list[tuple[int, float]], streak: int
    ) -> Finding:
        first, last = skipped[-streak][0], skipped[-1][0]
        places, _, where = _origin(history, last)
        scales = history.last("amp/scale").values()
        text = f" The scale is down to {shown(min(scales))}." if scales else ""
        return Finding(
            code=self.code,
            severity="bad",
            message=(
                f"The grad scaler skipped all {streak} watched steps from {first:,} to {last:,} "
                f"(more than {self.max_skips - 1}): gradients overflow at every scale.{text}{where}"
            ),
            remedy='Train in `Trainer(precision="bf16-mixed")`, or in full precision.',
            places=places,
            steps=(first, last),
            evidence=Evidence(float(streak), float(self.max_skips), last - first + 1, streak),
        )


def _streak(skipped: list[tuple[int, float]]) -> int:
    """Return how many of the newest steps in a row were skipped."""
    streak = 0
    for _, was_skipped in reversed(skipped):
        if not was_skipped:
            break
        streak += 1
    return streak


def _origin(history: History, step: int) -> tuple[tuple[str, ...], int, str]:
    """Return the places with non-finite numbers at a watched step, origin first."""
    back = sum(1 for other in history.steps[-_RECORDS:] if other >= step)
    calls = _counts(history, "activation/nonfinite_count", step, back)
    if calls:
        count = int(calls[0][1])
        where = f"`{calls[0][0]}` is the first output with such values ({count:,})"
        places = calls
    else:
        # Backward runs from the last parameter to the first, so the last one had it first.
        places = _counts(history, "gradient/nonfinite_count", step, back)[::-1]
        if not places:
            return (), 0, ""
        count = int(places[0][1])
        where = f"backward met it first in the gradient of `{places[0][0]}` ({count:,} values)"
    rest = [place for place, _ in places[1:]]
    also = f", then {listing(rest)}" if rest else ""
    return tuple(place for place, _ in places), count, f" At step {step:,} {where}{also}."


def _counts(history: History, metric: str, step: int, back: int) -> list[tuple[str, float]]:
    """Return places with a count above 0 at a step that is among the newest `back` records."""
    for seen, counts in history.window(metric, back):
        if seen == step:
            return [(place, count) for place, count in counts.items() if count > 0]
    return []
