"""Independent measurements that show whether a symptom is really there."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, median

from .cases import Proof
from .train import Outcome


def harmed(sick: Outcome, well: Outcome) -> str:
    """The twin answers a tenth more of its questions, and has learned something."""
    if well.gain() < 0.1:
        return f"the twin does not learn either ({well.first:.3g} to {well.last:.3g})"
    if math.isnan(sick.end.score) or not sick.end.finite:
        return ""
    gap = well.end.score - sick.end.score
    return "" if gap >= 0.1 else f"score {sick.end.score:.2f}, twin {well.end.score:.2f}"


def slowed(sick: Outcome, well: Outcome) -> str:
    """The twin's loss, on the same scale, is clearly lower."""
    if well.gain() < 0.1:
        return f"the twin does not learn either ({well.first:.3g} to {well.last:.3g})"
    if not sick.last <= 1.5 * well.last:
        return ""
    return f"loss {sick.last:.3g}, twin {well.last:.3g}"


def all_of(*proofs: Proof) -> Proof:
    """Return the first reason that any of some proofs gives."""

    def proof(sick: Outcome, well: Outcome) -> str:
        return next((why for each in proofs if (why := each(sick, well))), "")

    return proof


def shows(symptom: Callable[[Outcome], float], least: float, what: str) -> Proof:
    """Return a proof that a number of the sick run is large enough."""

    def proof(sick: Outcome, well: Outcome) -> str:
        value = symptom(sick)
        return "" if value >= least else f"{what} is {value:.3g}, not {least:.3g}"

    return proof


def dead(run: Outcome) -> float:
    """Return the largest share of dead units of a ReLU at the end; 0 where all are lost."""
    if not run.end.finite:
        return 0.0
    return max(run.end.dead.values(), default=0.0)


def saturated(run: Outcome) -> float:
    """Return the largest share of flat inputs of a hidden function at the end."""
    return max(run.end.saturated.values(), default=0.0)


def vanished(run: Outcome) -> float:
    """Return how many times smaller the first weights' gradient is than the largest, at first."""
    ratio = run.start.depth_ratio
    return math.inf if ratio == 0 else 1 / ratio


def shrinking(run: Outcome) -> float:
    """Return how many times the spread over samples falls from the first layer to the deepest."""
    spread = list(run.start.std.values())[:-1]
    if len(spread) < 2:
        return 0.0
    return math.inf if spread[-1] == 0 else spread[0] / spread[-1]


def size_of_gradient(run: Outcome) -> float:
    """Return the largest gradient at the start."""
    return max((g for g in run.start.gradient.values() if g is not None), default=0.0)


def unreached(run: Outcome) -> float:
    """Return the share of weights without any gradient, at the start or the end."""
    shares = [
        fmean(g is None or g == 0 for g in vitals.gradient.values())
        for vitals in (run.start, run.end)
        if vitals.gradient
    ]
    return max(shares, default=0.0)


def is_lost(run: Outcome) -> float:
    """Return 1 when a loss or a weight is not finite."""
    return float(not run.end.finite or not all(map(math.isfinite, run.losses)))


def finite_steps(run: Outcome) -> float:
    """Return how many steps passed before the first loss that is not finite."""
    return next((i for i, v in enumerate(run.losses) if not math.isfinite(v)), math.inf)


def spike(run: Outcome) -> float:
    """Return the largest loss after the start over the median of those around it."""
    losses, most = run.losses, 0.0
    for i in range(20, len(losses)):
        around = median(losses[i - 10 : i])
        # A jump far below where the loss began would be the noise of a loss near zero.
        if around > 0 and losses[i] >= 0.25 * losses[0]:
            most = max(most, losses[i] / around)
    return most


def swing(run: Outcome) -> float:
    """Return the spread of the last third of the losses, over their mean."""
    late = run.losses[-len(run.losses) // 3 :]
    level = fmean(late)
    return math.sqrt(fmean((v - level) ** 2 for v in late)) / abs(level) if level else 0.0


def given_back(run: Outcome) -> float:
    """Return the share of what the loss had won that it has lost again; 1 at the first loss."""
    if is_lost(run):
        return math.inf
    blocks = [fmean(run.losses[i : i + 10]) for i in range(0, len(run.losses) - 9, 10)]
    best, first = min(blocks, default=run.last), run.losses[0]
    if run.last > 1.5 * abs(first):
        return math.inf
    return (run.last - best) / (first - best) if first > best else 0.0


def is_at_chance(run: Outcome) -> bool:
    """Return whether a classifier of the digits or the like answers no better than by chance."""
    return run.outputs > 1 and not run.end.score > 1 / run.outputs + 0.06


def held_rise(run: Outcome) -> float:
    """Return the last held-out loss over the lowest."""
    return run.held_losses[-1] / max(min(run.held_losses), 1e-9) if run.held_losses else 0.0


def alike(run: Outcome) -> float:
    """Return how many times the size of the predictions is their spread over samples."""
    return 1 / max(run.end.spread, 1e-9)


def symptoms(run: Outcome) -> set[str]:
    """Return the codes that are true of a run whatever caused them, by measurement."""
    found = {
        "dead-relu": dead(run) >= 0.2,
        "saturated-activation": saturated(run) >= 0.4,
        "vanishing-gradient": 1 / max(run.end.depth_ratio, 1e-12) >= 300 or vanished(run) >= 300,
        "collapsed-activation": shrinking(run) >= 30,
        "missing-gradient": unreached(run) > 0,
        "non-finite": is_lost(run) > 0,
        "constant-prediction": run.end.spread < 0.02,
        "loss-plateau": not run.gain() >= 0.1 or is_at_chance(run),
        "underfitting": not run.gain() >= 0.3 or is_at_chance(run),
        "diverging-loss": given_back(run) >= 0.5,
        "exploding-gradient": not max(run.losses) < 5 * run.first,
        "loss-spike": spike(run) >= 3,
        "loss-oscillation": swing(run) >= 0.7,
        "overfitting": held_rise(run) >= 1.2,
        "batch-norm-gap": run.end.eval_loss > 1.5 * run.end.loss,
    }
    return {code for code, is_true in found.items() if is_true}
