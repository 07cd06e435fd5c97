"""`TrainValidationShift`: batches of training and validation that were processed differently."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import shown
from lightning_diag.splits import Limits, Side, difference, gap, ratio

_LOOKS = 16
"""Looks at training's batches that are put together (our choice): one may hold one sample."""
_METRICS = ("mean", "std", "mean_error", "std_error", "samples")


@dataclass(frozen=True)
class TrainValidationShift(Rule):
    """Validation's batches do not look like training's.

    What it sees:
        Mean and standard deviation of each tensor of numbers in the batch, in both stages. They
        count if the means differ by at least `shift` standard deviations, or the standard
        deviations by a factor of at least `factor`, and if that is at least `errors` times what
        chance makes of so few samples.

    Why it matters:
        A network that was trained on data of one kind is asked about data of another kind; what
        validation says is then no estimate of anything. Mostly one of the two was normalised twice
        or not at all, or by statistics of its own (C7).

    What to do:
        Use one function for both stages, with the mean and the standard deviation of the training
        split. If the two differ by nature (a later year, another hospital), validation tells
        how the network fares there.

    References:
        Breck et al., Data Validation for Machine Learning, MLSys 2019.
    """

    code: ClassVar[str] = "train-validation-shift"
    needs: ClassVar[tuple[str, ...]] = ("data/mean", "data/std")
    uses: ClassVar[tuple[str, ...]] = ("data/mean_error", "data/std_error", "data/samples")

    shift: float = 0.75
    """Difference of the means in standard deviations of training, at least 0. Our choice: other
    class frequencies moved it by less than 0.5, a forgotten normalisation by 1 or more."""
    factor: float = 1.6
    """Ratio of standard deviations, at least 1. Our choice: mixing samples or adding noise in
    training alone makes 1.4, and dividing by 255 in one stage alone 255."""
    errors: float = 6.0
    """Standard errors, at least 0. Our choice: so that chance plays no part even where some tens of
    tensors are compared after each of a thousand validations."""
    samples: int = 8
    """Samples of each stage that a verdict needs, at least 2. Our choice: with fewer, their spread
    is not known."""

    def __post_init__(self) -> None:
        self._require("shift", "errors", least=0.0)
        self._require("factor", least=1.0)
        self._require("samples", least=2, unit="samples")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        means, stds = history.last("data/mean"), history.last("data/std")
        shared = [
            leaf
            for place in means
            if place.startswith("validation/")
            and f"train/{(leaf := place.removeprefix('validation/'))}" in means
        ]
        if not shared:
            return self.not_observed("no tensor of the batch was seen in both stages")
        for leaf in shared:
            ours, theirs = f"train/{leaf}", f"validation/{leaf}"
            # a look at the newest numbers alone: the window is for those that differ
            is_near = gap(means[ours], means[theirs], stds[ours]) < self.shift / 2
            if is_near and ratio(stds[ours], stds[theirs]) < math.sqrt(self.factor):
                continue
            finding = self._compare(history, leaf)
            if finding is not None:
                return [finding]
        return []

    def _compare(self, history: History, leaf: str) -> Finding | None:
        train, steps = _training(history, f"train/{leaf}")
        last = {metric: history.last(f"data/{metric}") for metric in _METRICS}
        place = f"validation/{leaf}"
        held = Side(*(last[metric].get(place, 0.0) for metric in _METRICS))
        if train is None or min(train.samples, held.samples) < self.samples:
            return None
        found = difference(train, held, Limits(self.shift, self.factor, self.errors))
        if found is None:
            return None
        count = f"{shown(train.samples)} and {shown(held.samples)} samples up to step {steps[1]:,}"
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"Training's and validation's batches differ in tensor {leaf!r}: "
                f"{found.text} (threshold {shown(found.threshold)}). Mean and standard deviation "
                f"are {shown(train.mean)} and {shown(train.std)} in training, {shown(held.mean)} "
                f"and {shown(held.std)} in validation, over {count}."
            ),
            remedy=(
                "Process both splits by one function, with mean and standard deviation of the "
                "training split, and look at a batch of each `torch.utils.data.DataLoader`."
            ),
            places=(),
            steps=steps,
            evidence=Evidence(min(found.value, 1e30), found.threshold, steps[1] - steps[0] + 1, 2),
        )


def _training(history: History, place: str) -> tuple[Side | None, tuple[int, int]]:
    """Put the newest looks at a tensor together, as if they were one."""
    looks: dict[int, list[float]] = {}
    for metric in _METRICS:
        series = history.series(f"data/{metric}", place)
        for step, value in zip(series.steps[-_LOOKS:], series.values[-_LOOKS:], strict=True):
            looks.setdefault(step, []).append(value)
    whole = [(step, Side(*v)) for step, v in looks.items() if len(v) == len(_METRICS)]
    if not whole:
        return None, (0, 0)
    sides = [side for _, side in whole]
    samples = sum(side.samples for side in sides)
    mean = sum(side.samples * side.mean for side in sides) / samples
    squares = sum(side.samples * (side.std**2 + side.mean**2) for side in sides) / samples
    means = math.sqrt(sum((side.samples * side.mean_error) ** 2 for side in sides)) / samples
    stds = math.sqrt(sum((side.samples * side.std_error) ** 2 for side in sides)) / samples
    std = math.sqrt(max(0.0, squares - mean**2))
    return Side(mean, std, means, stds, samples), (whole[0][0], whole[-1][0])
