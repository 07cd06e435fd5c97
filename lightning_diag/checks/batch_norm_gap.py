"""`BatchNormGap`: batch norms whose statistics are not those that will be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_diag.checks.base import Check
from lightning_diag.checks.cut import samples_of
from lightning_diag.checks.norms import (
    NormCall,
    batch_norms,
    is_fresh,
    norm_calls,
    scatter_of_means,
    statistics_off,
    takes_statistics,
    without_noise,
)
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved, Severity
from lightning_diag.wording import listing, shown

_SCATTER = 0.5
"""Distance of the means of tiny batches that counts, as in `lightning_diag.rules`."""
_ENOUGH = 8
"""Samples from which on a batch's statistics say something of the running ones (our choice)."""


@dataclass(frozen=True)
class BatchNormGap(Check):
    """Batch norms over a few samples, or with running statistics far from the data.

    What it sees:
        What each batch norm is given in a step of a copy. *Tiny batches*: it takes its statistics
        from `few` samples or fewer, whose means scatter by half a standard deviation, as those of
        single numbers do; pictures with many pixels scatter less. Samples of all devices count
        where `SyncBatchNorm` joins them, and those of one device else. A note, and `suspect` from
        `samples` samples on downwards. *Pretrained*: running statistics that something has
        changed already, with batch norm and dropout as in evaluation: a mean square distance from
        the running mean of `off` running variances, or an inverse of that; `suspect` from `wild`
        on. Then training and evaluation give the same batch wildly different outputs.

    Why it matters:
        Training uses the statistics of the batch, evaluation the running ones. After batch norm,
        two samples of a linear layer are 1 and -1, whatever they were. Where a pretrained network
        gets data on another scale, what it has learned is of no use until it has learned that.

    What to do:
        Tiny batches: more samples on a device, group norm, or `SyncBatchNorm` over several devices;
        accumulating gradients does not help. Pretrained: scale inputs as for its first training.

    References:
        Wu and He, Group Normalization, ECCV 2018, arXiv:1803.08494.
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, arXiv:2105.07576.
        Ioffe and Szegedy, Batch Normalization, ICML 2015, arXiv:1502.03167.
    """

    code: ClassVar[str] = "batch-norm-gap"
    family: ClassVar[str] = "batch"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    samples: int = 2
    """Samples of a batch that are too few, at least 1, as in `lightning_diag.rules`."""
    few: int = 4
    """Samples that are a note, at least `samples`. Our choice: the mean of four single numbers
    scatters by half a standard deviation."""
    off: float = 10.0
    """Times that squares may be off running variances, at least 1. Our choice: another domain of
    pictures stays within, pictures from 0 to 1 in place of standardised ones do not."""
    wild: float = 100.0
    """The same for `suspect`, at least `off`. Our choice: ten times the standard deviation is
    another unit, not another domain."""

    def __post_init__(self) -> None:
        self._require("samples", "few", least=1, unit="sample")
        self._require("off", "wild", least=1.0)
        self._require_order("samples", "few")
        self._require_order("off", "wild")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        norms = batch_norms(subject.module)
        if not norms:
            return []
        tiny = self._tiny(subject)
        if tiny and tiny[0].severity == "suspect":
            return tiny
        if all(is_fresh(norm) for norm in norms.values()):
            return tiny
        strange = self._strange(subject)
        return strange or tiny

    def _tiny(self, subject: Subject) -> list[Finding]:
        size = samples_of(subject.batch(), subject.loaders)
        if size is not None and size > self.few:
            return []
        twin = subject.copy()
        ranks = int(getattr(subject.trainer, "world_size", 1))
        scatters: dict[str, tuple[float, int]] = {}
        calls = [c for c in norm_calls(twin, subject) if takes_statistics(c.norm)]
        if not any(_samples(call, ranks) <= self.few for call in calls):
            return []
        later = norm_calls(twin, subject, 1) if len(subject.batches) > 1 else []
        for call in calls:
            together = [call, *(c for c in later if c.path == call.path)]
            scatter = scatter_of_means(
                torch.cat([c.means for c in together]),
                torch.cat([c.variances for c in together]),
                _samples(call, ranks),
            )
            if _samples(call, ranks) <= self.few and scatter >= _SCATTER * (1 - 1e-6):
                scatters[call.path] = scatter, _samples(call, ranks)
        return self._told(subject, scatters, ranks) if scatters else []

    def _told(
        self, subject: Subject, scatters: dict[str, tuple[float, int]], ranks: int
    ) -> list[Finding]:
        places = sorted(scatters, key=lambda path: -scatters[path][0])
        scatter, samples = scatters[places[0]]
        severity: Severity = "suspect" if samples <= self.samples else "note"
        steps = int(getattr(subject.trainer, "accumulate_grad_batches", 1))
        also = f" Accumulating {steps} batches does not change that." if steps > 1 else ""
        of = "sample" if samples == 1 else "samples"
        where = f" on each of {ranks} devices" if ranks > 1 else ""
        joined = ", or join those of all devices by `Trainer(sync_batchnorm=True)`"
        return self.found(
            severity,
            f"{listing(places)} {'takes' if len(places) == 1 else 'take'} statistics from {samples}"
            f" {of} a batch{where}, whose mean scatters by {shown(scatter)} standard deviations "
            f"(threshold {_SCATTER}).{also}",
            "Use `torch.nn.GroupNorm`, or more samples a batch"
            f"{joined if ranks > 1 else ''}; accumulating gradients does not help batch norm.",
            value=scatter,
            threshold=_SCATTER,
            places=places,
        )

    def _strange(self, subject: Subject) -> list[Finding]:
        """Return whether running statistics that are not fresh are not those of the data."""
        twin = subject.copy()
        switched: list[nn.Module] = list(without_noise(twin))
        calls: list[Any] = [
            (call, number)
            for call in norm_calls(twin, subject)
            if call.samples >= _ENOUGH
            and not is_fresh(call.norm)
            and (number := statistics_off(call)) is not None
            and number >= self.off
        ]
        if not calls or not switched:
            return []
        first, number = calls[0]
        worst = max(found for _, found in calls)
        severity: Severity = "suspect" if number >= self.wild else "note"
        others = f"; {shown(worst)} times at worst" if worst > number else ""
        return self.found(
            severity,
            f"Running statistics are not those of the data: the variance at `{first.path}` is "
            f"{shown(number)} times off{others} ({len(calls)} batch norms off by {self.off:g} "
            f"times or more, {first.samples} samples).",
            "Scale the inputs as they were when these statistics were taken; or begin anew by "
            "`torch.nn.BatchNorm2d` without them.",
            value=number,
            threshold=self.off,
            places=list(dict.fromkeys(call.path for call, _ in calls)),
        )


def _samples(call: NormCall, ranks: int) -> int:
    """Return the samples of a statistic."""
    return call.samples * (ranks if isinstance(call.norm, nn.SyncBatchNorm) else 1)
