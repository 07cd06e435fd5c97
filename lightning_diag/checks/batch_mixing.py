"""`BatchMixing`: what is predicted for one sample depends on other samples of its batch (P20)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lightning_diag.checks.base import Check
from lightning_diag.checks.cut import samples_of
from lightning_diag.checks.dependence import Passing
from lightning_diag.checks.mixing import Run, Spot
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved, Severity

_BY_NAME = re.compile(r"batch|sample|neighbo|graph", re.IGNORECASE)
"""Names of modules that say that they compare samples."""
_TIME_FIRST = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer,
               nn.TransformerDecoderLayer, nn.Transformer)  # fmt: skip


@dataclass(frozen=True)
class BatchMixing(Check):
    """A prediction for one sample that depends on other samples of the batch.

    What it sees:
        A training step of a copy in evaluation mode, and gradients that go back from what loss
        functions are given for single samples: to how many samples of the tensors on the way, and
        of what enters the network, they lead. Words are followed to their embeddings; there, a
        sample is also exchanged for another. Batch norm uses its running statistics, dropout is
        off, and zeros that would hide a gradient are not zero. Which dimension counts samples is
        seen from a second step with half of them. Not counted: what is compared after the
        prediction (contrastive losses, in-batch negatives: the prediction grows with the batch in
        two dimensions), mixing of inputs in `training_step` and of two samples at a time (mixup),
        choices without a gradient (hard mining, experts with a capacity), and norms of any name.
        A module whose name or use says that samples attend to each other is a note.

    Why it matters:
        Training runs, and the loss may even fall. But the answer for a sample changes with its
        neighbours, so that validation with other batches says something else, and a single sample
        cannot be judged at all.

    What to do:
        Find the `view`, `reshape` or `transpose` that takes the dimension of samples for another,
        the softmax or mean over dimension 0, or the layer that takes time first.

    References:
        Karpathy, A Recipe for Training Neural Networks, 2019 (use backprop to chart dependencies).
        Braiek and Khomh, TheDeepChecker, 2022, arXiv:2204.00694 (cross-sample gradient).
    """

    code: ClassVar[str] = "batch-mixing"
    family: ClassVar[str] = "batch"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    samples: int = 4
    """Samples that a batch must have, at least 4. Our choice: two, half of them, can still mix."""
    probes: int = 4
    """Samples whose predictions are followed once something shows, at least 2; one before. Our
    choice: a wrong `view` concerns nearly all of them, and mixup is told from it by three."""

    def __post_init__(self) -> None:
        self._require("samples", least=4, unit="samples")
        self._require("probes", least=2, unit="samples")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        batch = subject.batch()
        samples = samples_of(batch, subject.loaders)
        if samples is None:
            return self.not_observed("how many samples a batch has is not known")
        if samples < self.samples:
            told = f"it takes {self.samples} samples to tell, and a batch has {samples}"
            return self.not_observed(told)
        return self._judged(Run(subject, batch, samples), samples)

    def _judged(self, run: Run, samples: int) -> list[Finding] | NotObserved:
        torn = run.torn_words()
        if torn is not None:
            return self._found(torn[1], samples, f"before `{torn[0]}`", [torn[0]])
        seems_mixed = run.seems_mixed()
        if seems_mixed is None:
            return self.not_observed("no gradient leads from a prediction back to single samples")
        if seems_mixed and run.time_left <= 0:
            return self.not_observed("there was no time left for a second look")
        spots = run.spots(self.probes) if seems_mixed else []
        if not spots:
            return []
        return self._told(max(spots, key=lambda each: each.samples), samples, spots)

    def _told(self, spot: Spot, samples: int, spots: Sequence[Spot]) -> list[Finding]:
        last = spot.last
        places = list(dict.fromkeys(each.place for each in spots))
        if last.kind == "out":
            return self._found(spot.samples, samples, f"behind `{spot.place}`", places)
        is_time_first = isinstance(last.module, _TIME_FIRST) and not _is_batch_first(last.module)
        return self._found(
            spot.samples,
            samples,
            f"in `{spot.place}`",
            places,
            severity="note" if _is_meant(last) else "suspect",
            is_time_first=is_time_first,
        )

    def _found(
        self,
        found: int,
        samples: int,
        where: str,
        places: Sequence[str],
        *,
        severity: Severity = "suspect",
        is_time_first: bool = False,
    ) -> list[Finding]:
        return self.found(
            severity,
            f"What is predicted for one sample depends on {found} of {samples} samples of its "
            f"batch: they are mixed {where}{', which takes time first' if is_time_first else ''} "
            "(one batch).",
            "Give such layers batch_first=True, as in "
            "`torch.nn.MultiheadAttention(batch_first=True)`, or give them time first."
            if is_time_first
            else "Look there for `.view`, `.reshape` or `.transpose` that take the dimension of "
            "samples for another, and for softmax or mean over it; if samples are meant to be "
            "compared, all is well.",
            value=found,
            threshold=1,
            places=places,
        )


def _is_batch_first(module: nn.Module) -> bool:
    if isinstance(module, nn.Transformer):
        return bool(module.batch_first)
    inner = getattr(module, "self_attn", module)
    return bool(getattr(inner, "batch_first", False))


def _is_meant(last: Passing) -> bool:
    """Return whether a module is said to compare samples: by its name, or as one long sequence."""
    is_sequence = isinstance(last.module, nn.MultiheadAttention) and 1 in last.shape[:2]
    return is_sequence or bool(_BY_NAME.search(type(last.module).__name__))
