"""`Rule`: a pure function of a history, whose thresholds are its fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Finding, NotObserved
from lightning_diag.history import History
from lightning_diag.thresholds import Thresholds

__all__ = ["NotObserved", "Rule"]


@dataclass(frozen=True)
class Rule(Thresholds, ABC):
    """What to look for in a run, and from where on it counts.

    A rule is called with the history after each record, so it looks at a bounded part of it. It
    returns at most one finding; `Diagnosis` follows that over time. A subclass is a frozen
    dataclass whose fields are its thresholds; its docstring has the sections What it sees, Why it
    matters, What to do and References.
    """

    code: ClassVar[str]
    """Public name, kebab-case: the name of the problem."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Metrics without which the rule cannot judge."""
    uses: ClassVar[tuple[str, ...]] = ()
    """Metrics that the rule looks at if they are there."""
    tells_onset: ClassVar[bool] = False
    """Whether the finding is about how it began, so that later ones only prolong it."""

    def __call__(self, history: History) -> list[Finding]:
        """Return the finding, if there is one; [] also when nothing could be judged."""
        verdict = self.check(history)
        return [] if isinstance(verdict, NotObserved) else verdict

    def check(self, history: History) -> list[Finding] | NotObserved:
        """Return the finding if there is one, or why nothing could be judged."""
        if not len(history):
            return self.not_observed("no step was watched")
        known = set(history.metrics())
        missing = [metric for metric in self.needs if metric not in known]
        if missing:
            names = " and ".join(f"`{metric}`" for metric in missing)
            verb = "was" if len(missing) == 1 else "were"
            return self.not_observed(f"{names} {verb} not measured")
        return self.judge(history)

    @abstractmethod
    def judge(self, history: History) -> list[Finding] | NotObserved:
        """Judge a history that has records, and every metric of `needs`."""

    def not_observed(self, reason: str) -> NotObserved:
        """Return that this rule cannot judge."""
        return NotObserved(self.code, reason)
