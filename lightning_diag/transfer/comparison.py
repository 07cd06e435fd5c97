"""What a comparison of ways to train found, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_diag.finding import Finding
from lightning_diag.transfer.linear_probe import LinearProbe
from lightning_diag.transfer.verdict import Difference, Verdict, signed, spoken

ArmName = Literal["head-only", "fine-tuned", "from-scratch"]
ARMS: tuple[ArmName, ...] = ("head-only", "fine-tuned", "from-scratch")


@dataclass(frozen=True)
class Arm:
    """What one way to train led to."""

    name: ArmName
    """Which: only the head, all of the pretrained module, or all of one that is not."""
    values: tuple[float, ...]
    """The metric after training, by seed."""
    mean: float
    """Of them."""
    interval: tuple[float, float]
    """Of the mean, with 95 %."""
    lr_factor: float
    """What the learning rates were multiplied by: the best of those that were tried."""
    steps: tuple[int, ...]
    """Optimizer steps that were taken, by seed."""


@dataclass(frozen=True)
class TransferComparison:
    """Three ways to train under one budget, and which is best."""

    metric: str
    """Its name."""
    mode: Literal["max", "min"]
    """Whether a higher or a lower one is better."""
    budget: str
    """What each training had."""
    arms: tuple[Arm, ...]
    """``head-only``, ``fine-tuned`` and ``from-scratch``."""
    untrained: tuple[float, ...]
    """The metric of the module from scratch before its training, by seed."""
    differences: tuple[Difference, ...]
    """By how much ``head-only`` and ``fine-tuned`` are better than ``from-scratch``."""
    verdict: Verdict
    """What follows."""
    reason: str
    """From what, with its numbers."""
    probe: LinearProbe | None
    """Whether the frozen features separate the classes; None if that could not be asked."""
    probe_problem: str
    """Why not; empty if it could."""
    findings: tuple[Finding, ...]
    """``negative-transfer`` and ``inseparable-features``, where they were found."""

    def arm(self, name: str) -> Arm:
        """Return one of the arms.

        Raises:
            KeyError: If there is none of that name.
        """
        for each in self.arms:
            if each.name == name:
                return each
        raise KeyError(f"{name!r}: the arms are {', '.join(ARMS)}")

    def __str__(self) -> str:
        compared = {each.arm: each for each in self.differences}
        lines = [f"{self.verdict}: {self.reason}", f"{self.metric} after {self.budget}:"]
        for each in self.arms:
            line = f"  {each.name:<12}  {each.mean:.3f} ({_range(each.interval)})"
            if each.name in compared:
                found = compared[each.name]
                line += f"  {signed(found.mean)} {spoken(found.interval)}"
            lines.append(line)
        if self.probe is not None:
            lines.append(
                f"  frozen features: {self.probe.accuracy:.3f} ({_range(self.probe.interval)}) by "
                f"a linear probe, chance {self.probe.chance:.3f}: {self.probe.verdict}"
            )
        return "\n".join([*lines, *(f"  {each.code}: {each.message}" for each in self.findings)])


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"
