"""Scenarios: `Doctor` on two ranks that do not see or suffer the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader, TensorDataset

from distributed.training import BATCH, NEVER_TOO_DEAR, Net, Seat, fit, loader, monitors, samples
from lightning_diag import Doctor, Evidence, Finding, History, Rule
from lightning_diag.report import console

STEPS = 30
DUE = 7
"""Step from which on there is something to find."""


@dataclass(frozen=True)
class Due(Rule):
    """Finds something once the run has come far enough."""

    code: ClassVar[str] = "due"
    step: int = DUE

    def judge(self, history: History) -> list[Finding]:
        """Find it if it is time."""
        now = history.steps[-1]
        if now < self.step:
            return []
        evidence = Evidence(float(now), float(self.step), 1, len(history))
        return [Finding("due", "bad", "It is time.", "Stop.", (), (self.step, now), evidence)]


def _doctor(**options: Any) -> Doctor:
    return Doctor(
        1, startup_seconds=NEVER_TOO_DEAR, monitors=monitors(), stop_on=["bad"], **options
    )


def _result(seat: Seat, doctor: Doctor, data: Any) -> dict[str, Any]:
    result = fit(seat, Net(), data, keep=doctor, callbacks=[])
    found = [finding.to_dict() for finding in doctor.findings]
    return {**result, "findings": found, "rank": seat.rank}


def healthy(seat: Seat) -> dict[str, Any]:
    """Train with every rule."""
    return _result(seat, Doctor(1), loader(seat, STEPS))


def poisoned(seat: Seat) -> dict[str, Any]:
    """Train on data with one NaN, which only the second rank gets."""
    x, y = (seat.share_of(part) for part in samples(STEPS))
    if seat.rank == 1:
        x[DUE * BATCH // seat.ranks, 0] = torch.nan
    data = DataLoader(TensorDataset(x, y), batch_size=BATCH // seat.ranks)
    return _result(seat, _doctor(), data)


def alone(seat: Seat) -> dict[str, Any]:
    """Train with a rule that finds something on the second rank only."""
    rule = Due(step=DUE if seat.rank == 1 else 1000)
    return _result(seat, _doctor(rules=[rule]), loader(seat, STEPS))


def mute(seat: Seat) -> dict[str, Any]:
    """Train with a terminal that fails, as a closed pipe does, on the rank that prints."""
    said = console.say

    def fail(finding: Finding, **_: Any) -> None:
        raise BrokenPipeError("nobody listens")

    console.say = fail
    try:
        return _result(seat, _doctor(rules=[Due()]), loader(seat, STEPS))
    finally:
        console.say = said


TOGETHER: list[Callable[[Seat], Any]] = [healthy, poisoned, mute, alone]
ALONE: list[Callable[[Seat], Any]] = []
