"""Runs in plain numbers whose loss or validation goes wrong, and healthy ones that look alike."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_diag.history import History
from rules.stories import STEPS, Change, Values, flat, lines, meta, story

Curve = Callable[[int], float]
LONG = (*STEPS, *range(405, 1600, 20), 1599)
"""A longer run, watched more rarely."""


def rng(seed: int) -> random.Random:
    """Return the generator of a story's noise."""
    return random.Random(seed)


def noisy(curve: Curve, share: float, *, skew: bool = False, seed: int = 0) -> Curve:
    """Return a curve with independent noise of a share of its level; `skew` has a long tail up."""
    draw = rng(seed)
    known: dict[int, float] = {}

    def value(step: int) -> float:
        if step not in known:
            known[step] = draw.expovariate(1.0) - 1.0 if skew else draw.gauss(0.0, 1.0)
        return curve(step) * (1 + share * known[step])

    return value


def learning(step: int) -> float:
    """Return a loss that goes to zero."""
    return 0.02 + 2.3 * math.exp(-step / 80)


def validated(
    validation: Mapping[str, Curve],
    *,
    loss: Curve = learning,
    every: int = 20,
    steps: Sequence[int] = tuple(STEPS),
    modes: Mapping[str, str] | None = None,
    change: Change | None = None,
    more: Mapping[str, Any] | None = None,
) -> History:
    """Return a run with validations: a curve for each metric, `val_loss` being the loss."""
    history = History()
    known = {"loss": "val_loss", "metrics": dict(modes or {})}
    history.update_meta({**meta(), "validation": known, **(more or {})})
    due = every - 1
    for record in lines(change, loss=loss, steps=steps):
        history.append(record)
        while due <= record.step:
            history.note(due, {f"validation/{k}": {"": v(due)} for k, v in validation.items()})
            due += every
    return history


def classes(number: int) -> dict[str, Any]:
    """Return what the metadata say of a cross-entropy."""
    known = {"function": "cross_entropy", "reduction": "mean", "classes": number}
    return {"losses": {"cross_entropy#0": known}}


def decaying(step: int, values: Values) -> None:
    """Shrink the weights, as too strong a decay does."""
    values["update/ratio"] = dict.fromkeys(values["update/ratio"], 5e-3)
    norms = values["update/weight_norm"]
    values["update/weight_norm"] = dict.fromkeys(norms, 1.0 + 4.0 * math.exp(-step / 60))


def decay(share: float) -> dict[str, Any]:
    """Return metadata of an optimizer with this weight decay."""
    return {**meta(), "optimizers": [{"class": "SGD", "groups": [{"weight_decay": share}]}]}


def spiked(step: int) -> float:
    """Return a loss that leaps up at step 300 and takes thirty steps to come back."""
    return learning(step) * (1 + 0.1 * math.sin(7 * step)) + (
        3.0 * math.exp(-(step - 300) / 10) if step >= 300 else 0.0
    )


def bouncing(step: int) -> float:
    """Return a loss that jumps from one side of its valley to the other."""
    return 1.5 + (0.5 if step % 2 else -0.5) + 0.8 * math.exp(-step / 20)


SICK: dict[str, Callable[[], History]] = {
    "diverging-loss": lambda: story(loss=lambda step: 2.3 + 0.1 * step),
    "loss-oscillation": lambda: story(loss=bouncing, steps=LONG),
    "loss-plateau": lambda: story(loss=flat),
    "loss-spike": lambda: story(loss=spiked),
    "metric-loss-disagreement": lambda: validated(
        {"val_loss": learning, "val_acc": lambda step: 0.9 - step / 1000}, modes={"val_acc": "max"}
    ),
    "over-regularisation": lambda: story(
        decaying, loss=lambda step: 1.5 + math.exp(-step / 30), about=decay(0.5)
    ),
    "overfitting": lambda: validated({"val_loss": lambda s: 0.8 + abs(s - 120) / 200}),
    "underfitting": lambda: story(
        loss=noisy(lambda step: 1.4 + math.exp(-step / 30), 0.01), steps=LONG
    ),
}
"""A run with the problem for each code."""
