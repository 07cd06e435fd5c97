"""`Check`: looks at a module before it is trained, and leaves no trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Evidence, Finding, NotObserved, Severity
from lightning_diag.thresholds import Thresholds

Level = Literal["fast", "full", "named"]

__all__ = ["Check", "Level", "NotObserved"]


@dataclass(frozen=True)
class Check(Thresholds, ABC):
    """What to look for before training, and from where on it counts.

    A subclass is a frozen dataclass whose fields are its thresholds; its docstring has the sections
    What it sees, Why it matters, What to do and References. It returns at most one finding. It
    reads the subject's module, and runs copies of it alone.
    """

    code: ClassVar[str]
    """Public name, kebab-case: the name of the problem; that of the rule if there is one."""
    level: ClassVar[Level] = "fast"
    """``fast`` if it takes less than a few batches' time; ``named`` if it is an option, which
    only a list of names asks; else ``full``."""
    timed: ClassVar[bool] = False
    """Whether its numbers are times, which are never quite the same."""
    family: ClassVar[str] = ""
    """Under which further name it can be asked for, together with others."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it cannot judge without: ``batch``, ``optimizers``, ``trial`` (one training step on a
    copy), ``losses`` (calls of loss functions in it), ``gradients``, ``copy``, ``validation``."""

    def __call__(self, subject: Subject) -> list[Finding] | NotObserved:
        """Return the finding if there is one, or why nothing could be judged."""
        for need in self.needs:
            reason = subject.lacks(need)
            if reason:
                return self.not_observed(reason)
        try:
            return self.judge(subject)
        except Unavailable as why:
            return self.not_observed(str(why))

    @abstractmethod
    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """Judge a subject that has everything of `needs`."""

    def not_observed(self, reason: str) -> NotObserved:
        """Return that this check cannot judge."""
        return NotObserved(self.code, reason)

    def found(
        self,
        severity: Severity,
        message: str,
        remedy: str,
        *,
        value: float,
        threshold: float,
        places: Sequence[str] = (),
        window: int = 1,
    ) -> list[Finding]:
        """Return a finding of before the first step.

        Args:
            severity: How bad it is.
            message: What is wrong, with its numbers.
            remedy: What to do about it.
            value: The number that was judged.
            threshold: What it was compared with.
            places: Where, most affected first.
            window: How many batches, samples or parameters were looked at, as the message says.
        """
        evidence = Evidence(float(value), float(threshold), window, 1)
        return [Finding(self.code, severity, message, remedy, tuple(places), (0, 0), evidence)]
