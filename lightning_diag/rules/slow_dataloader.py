"""`SlowDataloader`: training waits for its data."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import shown


@dataclass(frozen=True)
class SlowDataloader(Rule):
    """Most of the training time passes in waiting for the next batch.

    What it sees:
        The share of the time that passes in fetching the next batch, on the rank that waits
        longest; on a GPU the share in which the GPU has nothing left to do. The first fetch of each
        epoch and what surrounds a validation are left out. It counts if the median over the newest
        `records` is at least `fraction`, and if that makes `seconds` a step.

    Why it matters:
        It does no harm to the result, but the run could be that much faster.

    What to do:
        Load in other processes with `num_workers`, keep them with `persistent_workers`, do heavy
        preprocessing once and store the result, or do it on whole batches on the device.

    References:
        Mohan et al., Analyzing and mitigating data stalls in DNN training, VLDB 2021.
    """

    code: ClassVar[str] = "slow-dataloader"
    needs: ClassVar[tuple[str, ...]] = ("data/wait_fraction",)
    uses: ClassVar[tuple[str, ...]] = ("step_time/plain_seconds",)

    fraction: float = 0.5
    """Share of the time from which on it counts, 0 to 1. TraceML warns at half of the time."""
    seconds: float = 0.003
    """Seconds of waiting a step from which on it counts, at least 0. Our choice: collating a batch
    in the main process takes less, and a network for which that is half of the time is a toy."""
    records: int = 8
    """Watched steps whose median counts, at least 1. Our choice: eight tell a loader from a file
    that is read for the first time, and from a machine that does something else for a second."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0, most=1.0)
        self._require("seconds", least=0.0, unit="seconds")
        self._require("records", least=1, unit="watched step")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        window = history.window("data/wait_fraction", self.records)
        if len(window) < self.records:
            return self.not_observed(f"fewer than {self.records} waiting times are known")
        share = median(values[""] for _, values in window)
        if share < self.fraction:
            return []
        plain = history.last("step_time/plain_seconds").get("")
        waited = None if plain is None else plain * share / max(1 - share, 1e-3)
        if waited is not None and waited < self.seconds:
            return []
        first, last = window[0][0], window[-1][0]
        each = "" if waited is None else f", about {shown(1000 * waited)} ms a step"
        return [
            Finding(
                code=self.code,
                severity="suspect",
                message=(
                    f"{share:.0%} of the time passes in waiting for the next batch (threshold "
                    f"{self.fraction:.0%}){each}: the median of {self.records} watched steps from "
                    f"{first:,} to {last:,}."
                ),
                remedy=(
                    "Set num_workers and persistent_workers of `torch.utils.data.DataLoader`, "
                    "store what preprocessing gives, or process whole batches on the device."
                ),
                places=(),
                steps=(first, last),
                evidence=Evidence(share, self.fraction, last - first + 1, self.records),
            )
        ]
