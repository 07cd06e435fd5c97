"""`BatchNormGap`: running statistics that are not those of the batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import centre, is_stuck, listing, read_loss, shown

_SHRINKS = 0.8
"""A gap that falls below this share of itself from the first look to the last is closing."""
_SCATTER = 0.5
"""Distance of the means of tiny batches from the running one that counts (our choice)."""


class _Gap(NamedTuple):
    place: str
    excess: float
    """How many times the threshold; 1 or more."""
    value: float
    threshold: float
    looks: int
    """How many it rests on."""
    text: str


@dataclass(frozen=True)
class BatchNormGap(Rule):
    """Batch norm layers whose running statistics are not those of the batches they train on.

    What it sees:
        At each call of a batch norm layer that trains, the mean and the variance of the batch
        against the running ones, at watched steps eight or more apart. A call counts if, in the
        newest `records` looks, the variances differ by a factor of `ratio`, beyond what so few
        samples explain, or the means are `gap` running standard deviations apart and half as much
        again as batches of that size scatter, without closing; there the first `patience` steps, in
        which running statistics settle, are left out. It also counts if variances differ by a
        factor of `lasting` in each of the newest `lasting_records` looks, from half of `patience`
        on, without closing from the first of them to the last; and if its batches have `samples`
        samples or fewer, whose means scatter by half a standard deviation in the median of these
        looks. `bad` if the validation loss is also `validation` times the training loss, and at
        least half of the first one, or if batches are tiny and the loss stands still; else
        `suspect`.

    Why it matters:
        Training uses the statistics of the batch, evaluation the running ones. Where they differ
        the network that is validated and deployed is not the one that was trained (W14).

    What to do:
        Leave `momentum` at 0.1 (in PyTorch it is the weight of the new batch); look for batches
        with values out of all proportion, and for batches that are not drawn at random; with few
        samples a batch use group or layer norm.

    References:
        Ioffe and Szegedy, Batch Normalization, ICML 2015, arXiv:1502.03167.
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
    """

    code: ClassVar[str] = "batch-norm-gap"
    needs: ClassVar[tuple[str, ...]] = ("batch_norm/mean_gap", "batch_norm/variance_ratio")
    uses: ClassVar[tuple[str, ...]] = ("batch_norm/batch_size", "loss/train")

    ratio: float = 3.0
    """Factor between the variances that counts, above 1. Our choice: of healthy runs with batches
    of 4 to 128 none passed 1.5 once their first steps were over."""
    gap: float = 0.5
    """Distance of the means that counts, in running standard deviations, 0 or more. Our choice:
    healthy runs stayed below 0.4, which is what batches of 8 scatter by."""
    samples: int = 2
    """Samples of a batch that are too few, at least 1: after batch norm two samples of a linear
    layer are 1 and -1, whatever they were (our choice)."""
    records: int = 2
    """Looks in a row that must agree, at least 1. Our choice: they are eight steps apart or more,
    and each rests on all channels."""
    lasting: float = 1.75
    """Factor between the variances that counts if it lasts, above 1. Our choice: it moves outputs
    by a third; once statistics have settled, single looks of healthy runs kept below 1.3."""
    lasting_records: int = 8
    """Looks that it must last for, at least 2. Our choice: 56 steps or more, over which statistics
    with a momentum of 0.01 make up for 43 % of what they lack."""
    patience: int = 200
    """Steps that are left out, at least 1. Our choice: a momentum of 0.01, a tenth of the usual,
    has taken over 87 % of the true statistics by then."""
    validation: float = 3.0
    """Validation loss over training loss that makes it `bad`, above 1. Our choice: three times, as
    for a loss that has diverged (W12)."""

    def __post_init__(self) -> None:
        self._require("ratio", "lasting", "validation", least=1.0)
        self._require_order("lasting", "ratio")
        self._require("gap", least=0.0)
        self._require("samples", "records", "patience", least=1)
        self._require("lasting_records", least=2, unit="looks")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        begin = history.steps[0] + self.patience if history.steps[0] > 0 else self.patience
        looks = history.window("batch_norm/mean_gap", max(self.records, self.lasting_records))
        looks = [look for look in looks if look[0] >= begin - self.patience // 2]
        is_settled = len(looks) >= self.records and looks[-self.records][0] >= begin
        if not is_settled and len(looks) < self.lasting_records:
            return self.not_observed(
                f"batch norm was not looked at {self.records} times after step {begin:,}"
            )
        gaps = [
            found
            for place in self._suspects(history)
            if (found := self._gap(history, place, len(looks), is_settled=is_settled))
        ]
        if not gaps:
            return []
        gaps.sort(key=lambda found: -found.excess)
        return [self._found(history, gaps, looks)]

    def _suspects(self, history: History) -> list[str]:
        """Return the calls whose newest numbers do not rule a gap out."""
        size = history.last("batch_norm/batch_size")
        gap = history.last("batch_norm/mean_gap")
        return [
            place
            for place, ratio in history.last("batch_norm/variance_ratio").items()
            if not 1 / self.lasting <= ratio <= self.lasting
            or not gap.get(place, 0.0) < self.gap
            or size.get(place, 0.0) <= self.samples
        ]

    def _gap(self, history: History, place: str, looks: int, *, is_settled: bool) -> _Gap | None:
        distances = [s.get(place) for _, s in history.window("batch_norm/mean_gap", looks)]
        ratios = [s.get(place) for _, s in history.window("batch_norm/variance_ratio", looks)]
        size = history.last("batch_norm/batch_size").get(place, 2.0)
        known = [d for d in distances if d is not None]
        logs = [math.log(r) for r in ratios if r is not None and r > 0]
        scatter = centre(known)
        if size <= self.samples and scatter >= _SCATTER and len(known) >= self.records:
            text = f"rests on {size:.0f} samples a batch, whose means scatter by {shown(scatter)}"
            limit = f"{text} (threshold {_SCATTER})"
            return _Gap(place, scatter / _SCATTER, scatter, _SCATTER, len(known), limit)
        if is_settled:
            found = self._off(place, logs[-self.records :], size, self.ratio, self.records)
            found = found or self._apart(place, known[-self.records :], size)
            if found:
                return found
        return self._off(place, logs, size, self.lasting, self.lasting_records)

    def _off(
        self, place: str, logs: list[float], size: float, factor: float, looks: int
    ) -> _Gap | None:
        """Return the call if its variances differ by a factor in each of some looks."""
        low, high = -math.log(factor) + _few(size), math.log(factor)
        if len(logs) < looks or not (max(logs) < low or min(logs) > high):
            return None
        if _closes([abs(value) for value in logs]):
            return None
        value, limit = math.exp(logs[-1]), math.exp(low if logs[-1] < 0 else high)
        text = f"has seen batches with {shown(value)} times the running variance (threshold "
        excess = math.exp(min(abs(log) for log in logs)) / factor
        return _Gap(place, excess, value, limit, looks, f"{text}{shown(limit)})")

    def _apart(self, place: str, known: list[float], size: float) -> _Gap | None:
        """Return the call if means are far apart in each of the newest looks."""
        least = max(self.gap, 1.5 / math.sqrt(size))
        if len(known) < self.records or min(known) < least or _closes(known):
            return None
        text = (
            f"has seen batches whose mean is {shown(known[-1])} running standard deviations "
            f"off (threshold {shown(least)})"
        )
        return _Gap(place, min(known) / least, known[-1], least, self.records, text)

    def _found(
        self, history: History, gaps: list[_Gap], looks: list[tuple[int, dict[str, float]]]
    ) -> Finding:
        worst, loss = gaps[0], _validation(history)
        steps = looks[-min(worst.looks, len(looks))][0], looks[-1][0]
        also = f" So are {listing([g.place for g in gaps[1:]])}." if len(gaps) > 1 else ""
        severity: Severity = "suspect"
        told = ""
        if loss is not None and loss[0] >= max(self.validation * loss[1], loss[2] / 2) > 0:
            severity = "bad"
            told = f" The validation loss is {shown(loss[0])}, the training loss {shown(loss[1])}."
        elif "samples a batch" in worst.text and is_stuck(history, 0.1, self.patience):
            severity, told = "bad", " The loss stands still."
        return Finding(
            code=self.code,
            severity=severity,
            message=(
                f"Running statistics are not those of the batches: `{worst.place}` {worst.text}, "
                f"in {worst.looks} looks from step {steps[0]:,} to {steps[1]:,}."
                f"{also}{told}"
            ),
            remedy=(
                "Set the momentum of `torch.nn.BatchNorm2d` back to 0.1, shuffle, and look for "
                "batches far out of range; with few samples a batch use `torch.nn.GroupNorm`."
            ),
            places=tuple(g.place for g in gaps),
            steps=steps,
            evidence=Evidence(worst.value, worst.threshold, steps[1] - steps[0] + 1, worst.looks),
        )


def _few(size: float) -> float:
    """Return about what the mean logarithm of the variance of so few samples is too small by."""
    return math.log(max(1 - 1 / (max(size, 2.0) - 0.6), 0.05))


def _closes(sizes: list[float]) -> bool:
    return sizes[-1] < _SHRINKS * sizes[0]


def _validation(history: History) -> tuple[float, float, float] | None:
    """Return the newest validation loss, the level of the training loss, and the first one."""
    known = history.meta.get("validation") or {}
    name, loss = known.get("loss"), read_loss(history)
    if not name or loss is None:
        return None
    newest = history.last(f"validation/{name}").get("")
    return None if newest is None else (newest, loss.now, loss.start)
