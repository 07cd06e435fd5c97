"""How rules read a history: which parameters, in which order, how large, how the loss went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from lightning_diag.history import History, Series
from lightning_diag.rules.snapshot import of_model
from lightning_diag.wording import listing as listing  # noqa: PLC0414  # rules have it from here
from lightning_diag.wording import shown as shown  # noqa: PLC0414

_LEVEL = 16
"""Losses behind one level: their median is off by a third of the batch noise, and 16 steps are
few enough to follow a jump (our choice)."""
_BLOCKS = 64
"""Levels that describe the whole course: enough to find the best, few enough to be cheap."""
_WEIGHTS = 5
"""Weights behind a typical update ratio (our choice): two odd ones do not move their median, and
the cost does not grow with the model."""


def centre(values: Iterable[float]) -> float:
    """Return the median, NaN counting as infinite; infinite when there is nothing."""
    numbers = list(values)
    if math.isnan(sum(numbers)):
        numbers = [math.inf if math.isnan(value) else value for value in numbers]
    return median(numbers) if numbers else math.inf


# Which parameters -----------------------------------------------------------------------------


def parameters(history: History) -> dict[str, dict[str, Any]]:
    """Return what the metadata say of each parameter, in the model's order."""
    known: dict[str, dict[str, Any]] = history.meta.get("parameters", {})
    return known


def weights(history: History) -> list[str]:
    """Return the trained parameters of two dimensions or more, in the model's order.

    Biases and the gains of norm layers have no update ratio of about 1e-3: they are few numbers
    that start at 0 or 1 (W6, P37).
    """
    return of_model(
        history,
        "weights",
        lambda: [
            name
            for name, known in parameters(history).items()
            if known["trainable"] and known["optimizers"] and len(known["shape"]) >= 2
        ],
    )


def has_several_optimizers(history: History) -> bool:
    """Return whether the loss curve is not that of one optimizer."""
    return len(history.meta.get("optimizers", ())) > 1


def forward_order(history: History) -> dict[str, int]:
    """Return the position of each layer and place in the order of the forward pass.

    Known for what has call sites; both layers and places are keys.
    """
    order: dict[str, int] = {}
    for position, (place, site) in enumerate(history.meta.get("sites", {}).items()):
        order[place] = position
        order.setdefault(site["module"], position)
    return order


def depth_profile(history: History) -> list[list[str]]:
    """Return, for each optimizer, its linear and convolution weights from input to output.

    In the order of the forward pass where call sites are known, else as registered.
    """
    return of_model(history, "depth_profile", lambda: _depth_profile(history))


def _depth_profile(history: History) -> list[list[str]]:
    known = parameters(history)
    sites = history.meta.get("sites", {})
    order: dict[str, int] = {}
    for position, site in enumerate(sites.values()):
        if site["kind"] == "layer":
            order.setdefault(site["module"], position)
    chains: dict[int, list[str]] = {}
    for name in weights(history):
        if not order or known[name]["layer"] in order:
            chains.setdefault(known[name]["optimizers"][0], []).append(name)
    if order:
        for chain in chains.values():
            chain.sort(key=lambda name: order[known[name]["layer"]])
    return list(chains.values())


def size(history: History, name: str) -> int:
    """Return the number of elements of a parameter."""
    return math.prod(parameters(history)[name]["shape"])


# How far the weights move ---------------------------------------------------------------------


def typical_ratio(history: History) -> Series:
    """Return the median update ratio of the weights at each watched step.

    Of at most five weights, evenly spread over the model. Weights that start at zero are left
    out: at first each step changes them by their own size, as it should.
    """
    first = next(islice(history.records(), 1)).values
    zero = first.get("update/norm", {}).keys() - first.get("update/ratio", {}).keys()
    names = [name for name in weights(history) if name not in zero]
    picked = names[:: max(1, math.ceil(len(names) / _WEIGHTS))]
    series = [history.series("update/ratio", name) for name in picked]
    if series and all(other.steps == series[0].steps for other in series):
        # Nearly always, and several times as fast.
        return Series(
            series[0].steps, [_middle(v) for v in zip(*(s.values for s in series), strict=True)]
        )
    by_step: dict[int, list[float]] = {}
    for one in series:
        for step, value in zip(*one, strict=True):
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    return Series(steps, [_middle(by_step[step]) for step in steps])


def _middle(values: Sequence[float]) -> float:
    """Return the middle one of some numbers, NaN counting as infinite."""
    ordered = sorted(values)
    if math.isnan(sum(ordered)):
        ordered = sorted(math.inf if math.isnan(value) else value for value in values)
    return ordered[len(ordered) // 2]


def travel(ratio: Series, least: float) -> float:
    """Return how many times their own size the weights moved, in steps with a ratio of `least`.

    Steps between two records count with the smaller of their ratios.

    Example:
        >>> travel(Series([0, 1, 11], [0.5, 0.1, 0.1]), least=0.05)
        1.1
    """
    moved = 0.0
    for i in range(1, len(ratio.steps)):
        slower = min(ratio.values[i - 1], ratio.values[i])
        if least <= slower < math.inf:
            moved += slower * (ratio.steps[i] - ratio.steps[i - 1])
    return moved


# How the loss went ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """Where the loss began and where it is.

    Example:
        >>> Loss(start=2.3, now=1.15, steps=40, from_start=True).progress
        0.5
    """

    start: float
    """The first loss."""
    now: float
    """Median of the newest losses; infinite when they are not finite."""
    steps: int
    """Optimizer steps from the first loss to the last."""
    from_start: bool
    """Whether the first loss is that of the run's first step."""

    @property
    def progress(self) -> float:
        """Share of the first loss that is gone; negative when it grew.

        NaN when the first loss was not above 0: then there is no scale.
        """
        return 1 - self.now / self.start if 0 < self.start < math.inf else math.nan


def read_loss(history: History) -> Loss | None:
    """Return where the loss began and where it is; None with fewer than 16 losses."""
    newest = history.window("loss/train", _LEVEL)
    first = next(islice(history.records(), 1)).dense.get("loss/train")
    if len(newest) < _LEVEL or not first:
        return None
    begin = history.steps[0] - len(first) + 1
    now = centre(values[""] for _, values in newest)
    return Loss(float(first[0]), now, newest[-1][0] - begin, from_start=begin == 0)


def loss_of_weights(history: History) -> Loss | str:
    """Return where the loss began and is, or why it says nothing of how the weights move."""
    if has_several_optimizers(history):
        return "several optimizers share one loss curve"
    if not weights(history):
        return "no optimizer holds a weight of two dimensions or more"
    loss = read_loss(history)
    if loss is None:
        return "fewer than 16 losses are known"
    if math.isnan(loss.progress):
        return "the first loss is not above 0, so that progress has no scale"
    return loss


def best_losses(history: History) -> list[float]:
    """Return the 16 losses of the lowest level that the loss has had, of at most 64 levels."""
    values = history.series("loss/train").values
    stride = max(_LEVEL, math.ceil(len(values) / _BLOCKS))
    starts = range(0, max(1, len(values) - _LEVEL + 1), stride)
    levels = (list(values[start : start + _LEVEL]) for start in starts)
    return min(levels, key=lambda level: (centre(level), math.fsum(level)))


def is_stuck(history: History, progress: float, steps: int) -> bool:
    """Return whether the loss is known, and after `steps` steps has not fallen by `progress`."""
    loss = None if has_several_optimizers(history) else read_loss(history)
    return loss is not None and loss.steps >= steps and loss.progress < progress


def is_slow(history: History) -> bool:
    """Return whether the loss is not known to have halved, nor to be that of several networks."""
    loss = None if has_several_optimizers(history) else read_loss(history)
    return loss is None or not loss.progress >= 0.5
