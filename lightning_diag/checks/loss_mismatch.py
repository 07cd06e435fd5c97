"""`LossMismatch`: a loss function that does not fit its targets, or how it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.handwritten import broadcast_by_hand
from lightning_diag.checks.initial_loss import again
from lightning_diag.checks.looks import Agreed, agreed
from lightning_diag.checks.losses import LossCatch, SeenLoss
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.trial import Trial
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.lr.optimizers import family
from lightning_diag.measure.losses import INDEX_LOSSES, REGRESSION_LOSSES, rows_of
from lightning_diag.measure.output import broadcasts, distributions
from lightning_diag.misfits import (
    LEVELS,
    UNSIGNED,
    YES_OR_NO,
    Problem,
    below_zero,
    class_numbers,
    compares_all_pairs,
    negated,
    outside_of_yes_and_no,
)
from lightning_diag.probe.places import trained_modules
from lightning_diag.wording import shown

_NEVER_NEGATIVE = UNSIGNED | REGRESSION_LOSSES
_BATCHES = 16
"""Batches at most whose targets are counted (our choice)."""
_SAME = 1e-3
"""How far two losses may be apart to be one, of their size."""


@dataclass(frozen=True)
class LossMismatch(Check):
    """A loss function that does not fit its targets, or the way it is used.

    What it sees:
        The calls of loss functions in the first steps of a copy. *Broadcast*: a column of
        predictions and a row of targets, so that each prediction is compared with every target.
        *Sign*: what training minimises is the negative of what the loss function returned, or a
        function that cannot be negative is, or targets of a yes-or-no loss lie more than `beyond`
        outside 0 to 1. *Classes as quantities*: targets of a regression that are whole numbers
        from 0 up, spread as evenly as class numbers are. *Sum*: `reduction="sum"` under an
        optimizer whose steps grow with the loss: a note on what the learning rate comes to. Where
        no loss function is called, only a difference of a column of predictions and a row of the
        batch is found.

    Why it matters:
        All of these run without an error and most still bring the loss down: towards the mean of
        the targets, towards being wrong, towards the class in the middle. A sum over the batch
        makes the learning rate depend on the batch size.

    What to do:
        Compare shapes, signs and the kind of targets with what the loss function documents.

    References:
        PyTorch documentation of `MSELoss`, `BCELoss`, `CrossEntropyLoss`.
        Wardat et al., DeepDiagnosis, ICSE 2022, arXiv:2112.13993 (a loss below 0).
        Braiek and Khomh, TheDeepChecker, 2022, arXiv:2204.00694 (a loss that grows with the batch).
    """

    code: ClassVar[str] = "loss-mismatch"
    family: ClassVar[str] = "losses"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    beyond: float = 0.5
    """How far targets of a yes-or-no loss may lie outside 0 to 1, 0 or more, as in
    `lightning_diag.rules`: smoothed labels stay within 0.2."""
    evenness: float = 0.2
    """How far mean and spread of class numbers may be from those of classes that are all equally
    frequent, 0 to 1 of the number of classes, as in `lightning_diag.rules`: counts and ratings
    lie beyond."""
    classes: int = 100
    """Largest class number that is taken for one, at least 2, as in `lightning_diag.rules`:
    beyond, whole numbers are quantities."""
    targets: int = 8
    """Targets for each class from which on their spread is known, at least 1; as many batches are
    taken. Our choice: the mean of so many for each is off by a tenth of the classes at most."""
    records: int = 3
    """Steps that must agree, at least 1, as in `lightning_diag.rules`; one is taken where
    nothing shows."""

    def __post_init__(self) -> None:
        self._require("beyond", least=0.0)
        self._require("evenness", least=0.0, most=1.0)
        self._require("classes", least=2)
        self._require("targets", least=1, unit="target")
        self._require("records", least=1, unit="step")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        if not any(seen.trained for seen in subject.trial.losses):
            return self._by_hand(subject)
        is_automatic = bool(getattr(subject.module, "automatic_optimization", True))
        rates = _plain_rates(subject)

        def find(seen: SeenLoss, trial: Trial) -> Problem | None:
            return (
                _broadcast(seen.call.input.shape, seen.call.target.shape, seen.function)
                or (_negated(seen, trial) if is_automatic else None)
                or self._negative(seen)
                or (_summed(seen, trial, rates) if is_automatic else None)
            )

        found = agreed(subject, find, self.records)
        if not found or found[0].problem.severity == "note":
            numbered = self._numbered(subject)
            found = numbered or found
        if not found:
            return []
        place, problem, looks = found[0]
        steps = f"in each of {looks} steps" if looks > 1 else "one step"
        return self._told(f"`{place}`", problem, steps, [each.place for each in found], looks)

    def _told(
        self, who: str, problem: Problem, when: str, places: list[str], looks: int
    ) -> list[Finding]:
        return self.found(
            problem.severity,
            f"{who} {problem.text} ({when}).",
            problem.remedy,
            value=problem.value,
            threshold=problem.threshold,
            places=places,
            window=looks,
        )

    def _by_hand(self, subject: Subject) -> list[Finding] | NotObserved:
        shapes = broadcast_by_hand(subject)
        problem = None if shapes is None else _broadcast(*shapes, "")
        if problem is None:
            return self.not_observed(
                "no call of a loss function of torch was seen in `training_step`"
            )
        return self._told("The loss", problem, "one step", [], 1)

    def _negative(self, seen: SeenLoss) -> Problem | None:
        call = seen.call
        is_whole = call.reduction != "none" and not call.weighted  # else some may not count
        if seen.function in YES_OR_NO and call.target.numel() and is_whole:
            worst = float(torch.maximum(-call.target.float(), call.target.float() - 1).max())
            if worst > self.beyond and math.isfinite(worst):
                return outside_of_yes_and_no(worst, self.beyond)
        value = math.nan if call.output is None else float(call.output.float().mean())
        if seen.function not in _NEVER_NEGATIVE or not value < 0 or _is_rounding(seen, value):
            return None
        is_prediction = seen.function in ("nll_loss", "kl_div") and not _are_logs(seen)
        if is_prediction and seen.function == "nll_loss":
            return None  # of which `output-activation-mismatch` tells
        return below_zero(value, wants_logs=is_prediction)

    def _numbered(self, subject: Subject) -> list[Agreed]:
        """Return the regressions on what looks like class numbers."""
        found = []
        for seen in subject.trial.losses:
            values = seen.call.target.float().flatten()
            if not seen.trained or seen.function not in REGRESSION_LOSSES or not _counts(values):
                continue
            if values.max() <= self.classes:
                values = _more(subject, seen, values, self.targets)
            problem = self._of_numbers(values, seen)
            if problem is not None:
                found.append(Agreed(seen.place, problem, 1))
        return found

    def _of_numbers(self, values: Tensor, seen: SeenLoss) -> Problem | None:
        top = float(values.max())
        if not _counts(values) or float(values.min()) != 0 or not LEVELS <= top <= self.classes:
            return None
        if len(values) < self.targets * (top + 1):
            return None
        width = seen.call.input.shape[-1] if seen.call.input.dim() > 1 else 1
        return class_numbers(
            float(values.mean()),
            float(values.std()),
            top,
            outputs=width,
            evenness=self.evenness,
            count=f" among {len(values)}",
        )


def _counts(values: Tensor) -> bool:
    """Return whether numbers are whole and not negative."""
    is_whole = values.numel() > 0 and torch.equal(values, values.round())
    return is_whole and float(values.min()) >= 0


def _more(subject: Subject, seen: SeenLoss, values: Tensor, each: int) -> Tensor:
    """Return the targets of a call with those of more batches, to have some of each class."""
    count = math.ceil(each * (max(float(values.max()), LEVELS) + 2) / len(values))
    if count <= 1:
        return values
    twin, found = subject.copy(), [values]
    modules = trained_modules(twin.module)
    for index, batch in enumerate(subject.take(subject.loaders, min(count, _BATCHES))[1:], 1):
        with LossCatch(modules) as catch:
            twin.step(twin.moved(batch), index)
        found += [each.call.target.float().flatten() for each in catch.seen
                  if each.place == seen.place]  # fmt: skip
    return torch.cat(found)


def _broadcast(x: Sequence[int], target: Sequence[int], function: str) -> Problem | None:
    """Return that each prediction is compared with all targets, as their shapes say."""
    if function in INDEX_LOSSES or len(x) == len(target) or not target:
        return None  # of as many dimensions, somebody may want all pairs
    if not broadcasts(torch.empty(x, device="meta"), torch.empty(target, device="meta")):
        return None
    return compares_all_pairs(x, target)


def _negated(seen: SeenLoss, trial: Trial) -> Problem | None:
    output = seen.call.output
    if trial.loss is None or output is None or not trial.loss < 0:
        return None
    value = float(output.float().mean())
    is_negative = value > 0 and abs(value + trial.loss) <= _SAME * value
    if not is_negative or seen.function not in _NEVER_NEGATIVE or len(_trained(trial)) > 1:
        return None
    return negated(value, trial.loss)


def _trained(trial: Trial) -> list[SeenLoss]:
    return [seen for seen in trial.losses if seen.trained]


def _summed(seen: SeenLoss, trial: Trial, rates: list[float]) -> Problem | None:
    """Return that the only loss is a sum, under optimizers that notice."""
    output = seen.call.output
    size = len(seen.call.input) if seen.call.input.dim() else 1
    if seen.call.reduction != "sum" or size < 2 or not rates or output is None:
        return None
    total = float(output.float().mean())
    if trial.loss is None or not abs(total - trial.loss) <= _SAME * abs(trial.loss):
        return None
    mean = again(seen, seen.call.input)
    times = total / mean if mean else math.nan
    if not (math.isfinite(times) and times > 1):
        return None
    return Problem(
        "note",
        f"adds up {shown(times)} losses of {size} samples, so that steps grow with the batch size: "
        f"a learning rate of {shown(rates[0])} does here what {shown(times * rates[0])} does with "
        "their mean",
        "Leave `reduction` at its default, or divide the learning rate by the batch size.",
        times,
        1.0,
    )


def _plain_rates(subject: Subject) -> list[float]:
    """Return the learning rates of optimizers whose steps grow with the loss."""
    if subject.lacks("optimizers"):
        return []
    plain: list[Any] = [each for each in subject.optimizers if family(each) == "plain"]
    return [float(group["lr"]) for optimizer in plain for group in optimizer.param_groups]


def _are_logs(seen: SeenLoss) -> bool:
    rows = rows_of(seen.call.input.float(), 1 if seen.function == "nll_loss" else -1)
    number, _, logs = (float(each) for each in distributions(rows, 1e-2))
    return number > 0 and logs >= number / 2


def _is_rounding(seen: SeenLoss, value: float) -> bool:
    """Return whether a loss is 0 but for rounding."""
    x: Tensor = seen.call.input.float()
    terms = x.numel() if seen.call.reduction == "sum" else 1
    return -value <= 1e-5 * (1.0 + float(x.abs().max())) * terms
