"""Independent measurements that show whether a symptom is really there."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, median

from .cases import Proof
from .train import Outcome
from .vitals import Vitals


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


def worse(sick: Outcome, well: Outcome) -> str:
    """The twin answers more questions, or has a lower loss: noise bounds the loss from below."""
    return slowed(sick, well) and harmed(sick, well)


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
    """Return how many times the spread over samples falls with depth, at the start."""
    return _shrinks(run.start)


def _shrinks(vitals: Vitals) -> float:
    spread = list(vitals.std.values())[:-1]
    if len(spread) < 2 or not vitals.finite:
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
    """Return the spread of the last 128 losses around their trend, over the first loss."""
    return _wobble(run.losses[-128:]) / abs(run.losses[0]) if run.losses[0] else 0.0


def held_swing(run: Outcome) -> float:
    """Return the same of the last six held-out losses, of which no batch is part."""
    late = run.held_losses[-6:]
    return _wobble(late) / abs(run.losses[0]) if len(late) == 6 and run.losses[0] else 0.0


def _wobble(late: list[float]) -> float:
    middle, level = (len(late) - 1) / 2, fmean(late)
    square = sum((i - middle) ** 2 for i in range(len(late)))
    slope = sum((i - middle) * v for i, v in enumerate(late)) / square
    rest = [v - level - slope * (i - middle) for i, v in enumerate(late)]
    return math.sqrt(fmean(v * v for v in rest))


def stalled(run: Outcome) -> float:
    """Return the mean loss of the last quarter over that of the second; 1 without any progress."""
    quarter = len(run.losses) // 4
    return fmean(run.losses[-quarter:]) / max(fmean(run.losses[quarter : 2 * quarter]), 1e-9)


def set_back(sick: Outcome, well: Outcome) -> str:
    """Twenty losses from the fifth after the broken batch on are half as high again as the twin's.

    A leap that is over with the next batch does no harm.
    """
    at = int((sick.recipe.fault("bad_batch_at") or 0.0) * sick.recipe.steps)
    mine, other = (fmean(run.losses[at + 5 : at + 25]) for run in (sick, well))
    return "" if not mine < 1.5 * other else f"back at {mine:.3g} soon, twin {other:.3g}"


def given_back(run: Outcome) -> float:
    """Return the share of what the loss had won that it has lost again; infinite if more.

    The loss of the whole training set is the start, since that of a first batch may be low by
    luck. What was never won cannot be given back: then the loss must leave its start by far.
    """
    start = abs(run.start.loss)
    if is_lost(run) or run.last > 2 * start:
        return math.inf
    blocks = [fmean(run.losses[i : i + 10]) for i in range(0, len(run.losses) - 9, 10)]
    best = min(blocks, default=run.last)
    return (run.last - best) / (start - best) if start - best >= 0.3 * start else 0.0


def is_at_chance(run: Outcome) -> bool:
    """Return whether a classifier of the digits or the like answers no better than by chance."""
    return run.outputs > 1 and not run.end.score > 1 / run.outputs + 0.06


def overfits(run: Outcome) -> bool:
    """Return whether held-out data are answered worse: by a tenth, or worse than before."""
    if not run.held_losses:
        return False
    return held_rise(run) >= 1.2 or run.end.score - run.end.held_score >= 0.1


def loud_start(run: Outcome) -> float:
    """Return the first loss over that of equal scores for all classes."""
    return run.start.loss / math.log(run.outputs) if run.outputs > 1 else 0.0


def fading(run: Outcome) -> float:
    """Return how many times smaller the first weights' gradient is, when it is smallest."""
    ratios = [r for v in run.moments for r in (v.depth_ratio, v.batch_depth_ratio)]
    return 1 / max(min((r for r in ratios if not math.isnan(r)), default=1.0), 1e-12)


def ever_dead(run: Outcome) -> float:
    """Return the largest share of dead units of a ReLU while the network was not lost."""
    return max([0.0, *(s for v in run.moments if v.finite for s in v.dead.values())])


def ever_unreached(run: Outcome) -> float:
    """Return the largest share of weights without any gradient."""
    shares = [
        fmean(g is None or g == 0 for g in v.gradient.values()) for v in run.moments if v.gradient
    ]
    return max(shares, default=0.0)


def ever_saturated(run: Outcome) -> float:
    """Return the largest share of flat inputs of a hidden function."""
    return max([0.0, *(s for v in run.moments for s in v.saturated.values())])


def held_rise(run: Outcome) -> float:
    """Return the last held-out loss over the lowest."""
    return run.held_losses[-1] / max(min(run.held_losses), 1e-9) if run.held_losses else 0.0


def alike(run: Outcome) -> float:
    """Return how many times the size of the predictions is their spread over samples."""
    return 1 / max(run.end.spread, 1e-9)


def symptoms(run: Outcome) -> set[str]:
    """Return the codes that are true of a run whatever caused them, by measurement.

    What was true on the way and then passed was true: a finding may have been withdrawn as well.
    """
    found = {
        "dead-relu": ever_dead(run) >= 0.2,
        "saturated-activation": ever_saturated(run) >= 0.4,
        "vanishing-gradient": fading(run) >= 300,
        "collapsed-activation": max(map(_shrinks, run.moments)) >= 30,
        "missing-gradient": ever_unreached(run) > 0 or max(v.idle for v in run.moments) >= 0.5,
        "non-finite": is_lost(run) > 0,
        # At the start every network says nearly the same of all samples. A few samples that are
        # far out of range hide from a spread that all others get one answer.
        "constant-prediction": any(v.spread < 0.02 or v.same >= 0.9 for v in run.moments[1:]),
        "loss-plateau": not run.gain() >= 0.1 or is_at_chance(run),
        "underfitting": not run.gain() >= 0.3 or is_at_chance(run),
        "diverging-loss": given_back(run) >= 0.5,
        "exploding-gradient": not max(run.losses) < 5 * run.first,
        "loss-spike": spike(run) >= 3,
        # Losses of a few samples swing although the weights do not: then validation must.
        "loss-oscillation": (swing(run) if run.recipe.batch_size >= 16 else held_swing(run)) >= 0.1,
        "overfitting": overfits(run),
        # TheDeepChecker's factor.
        "initial-loss": loud_start(run) >= 2,
        "batch-norm-gap": run.end.eval_loss > 1.5 * run.end.loss,
    }
    return {code for code, is_true in found.items() if is_true}
