"""`BatchNormGap`: running statistics that are not those of the batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import is_stuck, listing, read_loss, shown

_SHRINKS = 0.8
"""A gap that falls below this share of itself from one look to the next is closing."""


class _Gap(NamedTuple):
    place: str
    excess: float
    """How many times the threshold; 1 or more."""
    value: float
    threshold: float
    text: str


@dataclass(frozen=True)
class BatchNormGap(Rule):
    """Batch norm layers whose running statistics are not those of the batches they train on.

    What it sees:
        At each call of a batch norm layer that trains, the mean and the variance of the batch
        against the running ones, in the newest `records` looks (each eighth watched step). A call
        counts if the variances differ by a factor of `ratio`, beyond what so few samples explain,
        or if the means are `gap` running standard deviations apart and half as much again as
        batches of that size scatter, in each of those looks and without closing. So does one
        whose batches have `samples` samples or fewer, and scatter by half a standard deviation.
        The first `patience` steps, in which running statistics settle, are left out. `bad` if the
        validation loss is also `validation` times the training loss, and at least half of the
        first one, or if batches are tiny and the loss stands still; else `suspect`.

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
    """Looks in a row that must agree, at least 1. Our choice: they are eight watched steps apart,
    and each rests on all channels."""
    patience: int = 200
    """Steps that are left out, at least 1. Our choice: a momentum of 0.01, a tenth of the usual,
    has taken over 87 % of the true statistics by then."""
    validation: float = 3.0
    """Validation loss over training loss that makes it `bad`, above 1. Our choice: three times, as
    for a loss that has diverged (W12)."""

    def __post_init__(self) -> None:
        self._require("ratio", "validation", least=1.0)
        self._require("gap", least=0.0)
        self._require("samples", "records", "patience", least=1)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        begin = history.steps[0] + self.patience if history.steps[0] > 0 else self.patience
        window = history.window("batch_norm/mean_gap", self.records)
        if len(window) < self.records or window[0][0] < begin:
            return self.not_observed(
                f"batch norm was not looked at {self.records} times after step {begin:,}"
            )
        gaps = [found for place in window[-1][1] if (found := self._gap(history, place))]
        if not gaps:
            return []
        gaps.sort(key=lambda found: -found.excess)
        return [self._found(history, gaps, (window[0][0], window[-1][0]))]

    def _gap(self, history: History, place: str) -> _Gap | None:
        distances = [s.get(place) for _, s in history.window("batch_norm/mean_gap", self.records)]
        ratios = [
            s.get(place) for _, s in history.window("batch_norm/variance_ratio", self.records)
        ]
        size = history.last("batch_norm/batch_size").get(place, 2.0)
        known = [d for d in distances if d is not None]
        logs = [math.log(r) for r in ratios if r is not None and r > 0]
        if len(known) < self.records or len(logs) < self.records:
            return None
        if size <= self.samples and min(known) >= 0.5:
            text = f"rests on {size:.0f} samples a batch, whose means scatter by {shown(known[-1])}"
            return _Gap(place, min(known) / 0.5, known[-1], 0.5, f"{text} (threshold 0.5)")
        low, high = -math.log(self.ratio) + _few(size), math.log(self.ratio)
        if (max(logs) < low or min(logs) > high) and not _closes([abs(v) for v in logs]):
            value = math.exp(logs[-1])
            limit = math.exp(low if logs[-1] < 0 else high)
            text = (
                f"has seen batches with {shown(value)} times the running variance (threshold "
                f"{shown(limit)})"
            )
            return _Gap(place, math.exp(min(abs(v) for v in logs)) / self.ratio, value, limit, text)
        least = max(self.gap, 1.5 / math.sqrt(size))
        if min(known) >= least and not _closes(known):
            text = (
                f"has seen batches whose mean is {shown(known[-1])} running standard deviations "
                f"off (threshold {shown(least)})"
            )
            return _Gap(place, min(known) / least, known[-1], least, text)
        return None

    def _found(self, history: History, gaps: list[_Gap], steps: tuple[int, int]) -> Finding:
        worst, loss = gaps[0], _validation(history)
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
                f"in each of the {self.records} looks from step {steps[0]:,} to {steps[1]:,}."
                f"{also}{told}"
            ),
            remedy=(
                "Set the momentum of `torch.nn.BatchNorm2d` back to 0.1, shuffle, and look for "
                "batches far out of range; with few samples a batch use `torch.nn.GroupNorm`."
            ),
            places=tuple(g.place for g in gaps),
            steps=steps,
            evidence=Evidence(worst.value, worst.threshold, steps[1] - steps[0] + 1, self.records),
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
