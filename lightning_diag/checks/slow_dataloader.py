"""`SlowDataloader`: training would wait for its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check, Level
from lightning_diag.checks.pace import estimate_of, in_time
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.waiting import fetches_of, share
from lightning_diag.finding import Finding, NotObserved


@dataclass(frozen=True)
class SlowDataloader(Check):
    """Most of the training time would pass in waiting for the next batch.

    What it sees:
        The time that copies of the training loaders take for a batch, with as many worker processes
        as the user's, against the time of a training step on a copy. Without workers both come one
        after the other; with workers a step waits only for what loading takes longer than itself.
        It counts if waiting takes `fraction` of the time, and `seconds` a step. The first batch and
        the start of the workers are left out. On a CPU workers and training share its cores, which
        no copy shows: then more time passes in waiting than is said.

    Why it matters:
        It does no harm to the result, but the run could be that much faster.

    What to do:
        Load in other processes with `num_workers`, keep them with `persistent_workers`, do heavy
        preprocessing once and store the result, or do it on whole batches on the device.

    References:
        Mohan et al., Analyzing and mitigating data stalls in DNN training, VLDB 2021.
    """

    code: ClassVar[str] = "slow-dataloader"
    level: ClassVar[Level] = "full"
    family: ClassVar[str] = "cost"
    timed: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    fraction: float = 0.5
    """Share of the time from which on it counts, 0 to 1, as in `lightning_diag.rules`: TraceML
    warns at half of the time."""
    seconds: float = 0.003
    """Seconds of waiting a step from which on it counts, at least 0. Our choice: collating a batch
    in the main process takes less, and a network for which that is half of the time is a toy."""

    def __post_init__(self) -> None:
        self._require("fraction", least=0.0, most=1.0)
        self._require("seconds", least=0.0, unit="seconds")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        step = estimate_of(subject).step_seconds
        fetches = fetches_of(subject)
        wait, waited = share(fetches, step), sum(fetch.wait(step) for fetch in fetches)
        if wait < self.fraction or waited < self.seconds:
            return []
        workers = sum(fetch.workers for fetch in fetches)
        batches = sum(fetch.batches for fetch in fetches)
        return self.found(
            "suspect",
            f"{wait:.0%} of the time would pass in waiting for the next batch (threshold "
            f"{self.fraction:.0%}), about {in_time(waited)} a step: a step takes "
            f"{in_time(step)}, and loading a batch {in_time(sum(f.seconds for f in fetches))} with "
            f"{workers} workers ({batches} batches timed).",
            "Set num_workers and persistent_workers of `torch.utils.data.DataLoader`, store what "
            "preprocessing gives, or process whole batches on the device.",
            value=wait,
            threshold=self.fraction,
            window=batches,
        )
